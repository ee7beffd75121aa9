"""`sidetune rerun`, as a user meets it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sidetune.sealed import sealed_json

QUICK = ("--epochs", "2", "--set", "recipe.batch_size=8", "--set", "recipe.precision=fp32")


@pytest.fixture
def trained(run, folder, small):
    run("fit", folder, *small, *QUICK, "--method", "linear", "--lr", "0.01", "--out", "done")
    return Path("done/run/result.json")


def test_a_result_is_repeated_to_the_last_number(run, trained):
    assert run("rerun", "done") == "done/run/result.json: every number is the same\n"
    (row,) = json.loads(run("rerun", trained, "--out", "again", "--json"))
    assert row == {"run": "done/run/result.json", "numbers": "", "origin": "", "out": "again"}
    before, now = (json.loads(Path(p, "run/result.json").read_text()) for p in ("done", "again"))
    assert before["trained"] == now["trained"] and before["run"] == now["run"] and before["digest"] == now["digest"]


def test_what_differs_is_told_with_what_it_came_from(run, trained, folder):
    picture = next((folder / "train").rglob("*.png"))
    Image.new("L", (16, 16), 255).save(picture)
    status, _ = run("rerun", "done", fails=True)
    assert status == 1
    shown = run("rerun", "done", fails=True, shown=True)
    assert "losses: [" in shown and "trained: " in shown
    assert "came from something else: the training images or their labels were changed" in shown


def test_every_run_of_a_comparison_is_repeated(run, folder, small):
    run("compare", folder, *small, *QUICK, "--methods", "linear,dtl+", "--seeds", "2", "--out", "table")
    rows = json.loads(run("rerun", "table/results-squares.json", "--json"))
    assert [row["run"] for row in rows] == [f"{m} (seed {s})" for m in ("linear", "dtl+") for s in (0, 1)]
    assert {row["numbers"] for row in rows} == {""}


def test_what_tells_too_little_cannot_be_repeated(run, trained, tmp_path):
    told = json.loads(trained.read_text())
    trained.write_text(trained.read_text().replace('"epochs": 2', '"epochs": 3', 1))
    assert "result.json is damaged: it is not as it was written" in run("rerun", "done", fails=True)[1]
    for change, message in (
        ({"kind": None}, "does not tell all that it takes to repeat it: it is of an earlier version"),
        ({"run": {**told["run"], "source": None}}, "samples in memory, which nobody finds again"),
        ({"run": {**told["run"], "method": {**told["run"]["method"], "glow": 1}}}, "Linear with glow = 1, which this"),
        ({"means": {**told["means"], "magic": 1}}, "Means with magic = 1, which this version"),
    ):
        trained.write_text(sealed_json({k: v for k, v in {**told, **change}.items() if k != "seal"}))
        assert message in run("rerun", trained, fails=True)[1]
    assert "there is no result at gone.json" in run("rerun", "gone.json", fails=True)[1]
