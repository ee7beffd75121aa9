"""What earlier versions wrote is still read."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_network
from safetensors.torch import load_file

import sidetune
from sidetune.errors import RunExists
from sidetune.recipe import Recipe

FORMER = Path(__file__).parent / "formats/0.1"


@pytest.fixture
def former(tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(FORMER, tmp_path / "0.1"))


@pytest.fixture
def vit(former):
    """The one that they were made with; machines draw weights that differ in last bits."""
    network = tiny_network("vit")
    network.load_state_dict(load_file(former / "vit.safetensors"))
    return sidetune.open_backbone(network)


@pytest.mark.parametrize("name", ["finished", "mist", "edge"])
def test_saved_models_say_what_they_said(vit, former, name):
    known = np.load(former / "logits.npz")
    model = sidetune.load(former / name, backbone=vit)
    with torch.no_grad():
        found = model(torch.from_numpy(known["images"])).numpy()
    assert np.allclose(found, known[name], atol=1e-5)


@pytest.mark.parametrize(("method", "codec"), [("dtl+", "same"), ("linear", "int8")])
def test_stores_are_found_and_not_filled_again(vit, samples, former, method, codec):
    recipe = Recipe(epochs=1, batch_size=4, precision="fp32", num_workers=0, seed=1, codec=codec)
    model = sidetune.adapt(vit, method, classes=samples.classes, transform="vtab", seed=1)
    before = {p: p.read_bytes() for p in (former / "store").rglob("*") if p.is_file()}
    sidetune.fit(model, samples.subset(range(6)), recipe=recipe, store=former / "store")
    assert {p: p.read_bytes() for p in (former / "store").rglob("*") if p.is_file()} == before
    other = sidetune.adapt(vit, method, classes=samples.classes, transform="vtab", seed=1)
    anew = replace(recipe, features="memory", codec="same") if codec == "same" else recipe
    sidetune.fit(other, samples.subset(range(6)), recipe=anew, store=None if codec == "same" else former / "new")
    assert all(torch.allclose(t, other.trained()[name], rtol=1e-3, atol=1e-4) for name, t in model.trained().items())


def test_a_store_of_more_serves_one_that_asks_for_less(vit, samples, former):
    folder = former / "store"
    files = sorted(folder.rglob("*"))
    recipe = Recipe(epochs=1, batch_size=4, precision="fp32", num_workers=0, seed=1)
    model = sidetune.adapt(vit, "dtl", classes=samples.classes, transform="vtab", seed=1)
    sidetune.fit(model, samples.subset(range(6)), recipe=recipe, store=folder)
    assert sorted(folder.rglob("*")) == files


def test_a_run_whose_recipe_holds_means_goes_on_by_those_of_today(vit, samples, tmp_path):
    former = Path(shutil.copytree(FORMER.parent / "0.1-sealed", tmp_path / "sealed"))
    recipe = Recipe(epochs=3, batch_size=8, precision="fp32", num_workers=0, seed=1)
    model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab", seed=1)
    done = sidetune.fit(model, samples.subset(range(24)), recipe=recipe, out=former / "stopped", resume=True)
    assert done.num_found == 2 and len(done.history) == 3
    whole = sidetune.Adapter.read(former / "finished")
    assert whole.recipe.means.micro_batch == 4 and whole.recipe.deciding() == replace(recipe, lr=0.03).deciding()
    assert all(torch.allclose(t, whole.tensors[name], atol=1e-6) for name, t in model.trained().items())
    with pytest.raises(RunExists, match="other choices: recipe.epochs: 3 -> 4"):
        sidetune.fit(
            model, samples.subset(range(24)), recipe=replace(recipe, epochs=4), out=former / "stopped", resume=True
        )
