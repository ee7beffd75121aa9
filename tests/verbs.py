"""Fixtures: the command line, run in a folder of its own, and a small network for it."""

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line; gives what it printed, or `said` on standard error, or (status, message) if it
    failed, unless what it has `shown` is wanted."""
    from sidetune.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*words, fails=False, said=False, shown=False):
        monkeypatch.setattr(sys, "argv", ["sidetune", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
            raise SystemExit(0)
        printed = capsys.readouterr()
        assert bool(stopped.value.code) == fails, printed.err
        if fails and not shown:
            return stopped.value.code, printed.err
        return printed.err if said else printed.out

    return run


@pytest.fixture
def fetched(monkeypatch):
    """A small network in place of one that has to be fetched."""

    def create(name, *, architecture, pretrained):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=3, embed_dim=48, num_heads=3)

    monkeypatch.setattr("sidetune.backbones.create", create)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Six blocks of 64 channels, where only what is made of a network is looked at."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return "--backbone", path, "--set", "architecture=test_vit", "--set", "image_size=32"
