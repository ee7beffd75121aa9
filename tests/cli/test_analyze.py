"""`sidetune analyze`, and choices that are words."""

import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from sidetune.cli.choices import convert
from sidetune.cli.main import main
from sidetune.methods.dtl import Fusion

ARCHITECTURE = "vit_tiny_patch16_224"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line; gives what it printed, or its message if it failed."""
    monkeypatch.chdir(tmp_path)

    def run(*words, fails=False):
        monkeypatch.setattr(sys, "argv", ["sidetune", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
            raise SystemExit(0)
        printed = capsys.readouterr()
        assert bool(stopped.value.code) == fails, printed.err
        return printed.err if fails else printed.out

    return run


def test_a_shared_g_is_analysed_beside_one_that_is_not(run, folder, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "tiny.safetensors"
    save_file(timm.create_model(ARCHITECTURE, num_classes=0).state_dict(), weights)
    network = ("--backbone", weights, "--set", f"architecture={ARCHITECTURE}", "--set", "image_size=32")
    for method in ("dtlv2", "dtlv2-ls", "linear"):
        run(
            "fit",
            folder,
            *network,
            "--method",
            method,
            "--out",
            method,
            "--epochs",
            "1",
            "--set",
            "recipe.batch_size=8",
        )

    printed = run("analyze", "dtlv2", "dtlv2-ls", folder, "--part", "train")
    assert "dtlv2: neighbouring low-rank maps have a cosine similarity of" in printed
    assert "dtlv2-ls (share) and dtlv2, stage 1: moved by sharing, in spreads: block 7 " in printed
    assert (tmp_path / "analysis/redundancy.png").stat().st_size > 1000
    assert (tmp_path / "analysis/fusion.png").stat().st_size > 1000

    again = ("analyze", "dtlv2", "dtlv2-ls", folder)
    assert "already holds results; replace them by --overwrite" in run(*again, fails=True)
    told = json.loads(run(*again, "--part", "val", "--overwrite", "--json"))
    written = json.loads((tmp_path / "analysis/analysis.json").read_text())
    assert told == written
    model = told["models"]["dtlv2-ls"]
    assert model["num_images"] == 9 and model["writes"] == [7, 9, 11, 12] and model["method"]["share"] == "linear"
    assert [pair["blocks"] for pair in model["cosines"]] == [[1, 5], [5, 9], [9, 12]]
    assert told["fusion"][0]["shifts"].keys() == {"7", "9", "11", "12"}

    refused = run("analyze", "linear", folder, "--out", "other", fails=True)
    assert "only DTL and DTLv2 have what is analysed" in refused and not (tmp_path / "other").exists()


def test_a_choice_may_be_the_word_none():
    assert convert("fusion", "none", Fusion) == "none"
    assert convert("rank", "none", int | None) is None
    with pytest.raises(ValueError, match="fusion must be one of none, depthwise, average, full, got 'null'"):
        convert("fusion", "null", Fusion)
