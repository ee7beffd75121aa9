"""A recipe decides a result; its means fit it to a machine and decide nothing."""

import dataclasses
import inspect
import json
import pickle

import pytest

import sidetune
from sidetune.means import Means
from sidetune.recipe import MEANS, SINCE, Recipe
from sidetune.saved import CONFIG, from_saved
from sidetune.sealed import sealed_json


def test_means_may_be_given_changed_and_read_as_fields_of_the_recipe():
    recipe = Recipe(epochs=3, micro_batch=8)
    assert recipe.means == Means(micro_batch=8) and recipe.micro_batch == 8 and not recipe.compile
    more = dataclasses.replace(recipe, offload=True)
    assert more.means == Means(micro_batch=8, offload=True) and more.epochs == 3
    assert recipe == Recipe(epochs=3, means=Means(micro_batch=8)) != Recipe(epochs=3)
    assert pickle.loads(pickle.dumps(recipe)) == Recipe(**dataclasses.asdict(recipe)) == recipe
    with pytest.raises(TypeError, match="'micro_batches'"):
        Recipe(micro_batches=8)
    with pytest.raises(AttributeError, match="a Recipe has no field 'micro_batches'"):
        recipe.micro_batches  # noqa: B018
    assert "epochs" in inspect.signature(Recipe).parameters


def test_what_decides_names_no_means():
    recipe = Recipe(micro_batch=8, seed=3)
    assert recipe.deciding() == Recipe(seed=3).deciding()
    assert recipe.deciding().keys() == {f.name for f in dataclasses.fields(Recipe)} - {"means", *SINCE}
    assert Recipe(head_rate=2.0).deciding() == {**Recipe().deciding(), "head_rate": 2.0}
    assert not recipe.deciding().keys() & set(MEANS)


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"micro_batch": 0}, "micro_batch must be at least 1, got 0"),
        ({"checkpoint_blocks": 0}, "checkpoint_blocks must be at least 1, got 0"),
        ({"features_limit": -1}, "features_limit must be at least 0, got -1"),
        ({"features": "disk"}, "features must be one of auto, memory, off, got 'disk'"),
        ({"compile": True, "offload": True}, "compile does not go with offload"),
    ],
)
def test_means_are_checked(choices, message):
    for kind in (Means, Recipe):
        with pytest.raises(ValueError, match=message):
            kind(**choices)
    assert Means(micro_batch=1, checkpoint_blocks=1, features_limit=0)


def test_means_beside_a_recipe_go_before_its_own(vit, samples):
    model = sidetune.adapt(vit, "lora", classes=samples.classes)
    recipe = Recipe(epochs=1, batch_size=8, micro_batch=2)
    sidetune.fit(model, samples, recipe=recipe, means=Means(micro_batch=4, checkpoint=True))
    assert model.recipe.means == Means(micro_batch=4, checkpoint=True)
    assert model.suffix.num_recomputed == len(model.suffix.blocks)


def test_recipes_of_0_1_are_read_and_fields_that_are_not_known_are_named():
    told = {**Recipe(seed=3).deciding(), "betas": [0.9, 0.99], "micro_batch": 4}
    assert from_saved(Recipe, json.loads(json.dumps(told))) == Recipe(seed=3, betas=(0.9, 0.99), micro_batch=4)
    with pytest.raises(sidetune.errors.DataError, match=r"a Recipe with sharpness = 2, which this version .* not know"):
        from_saved(Recipe, {**told, "sharpness": 2})


@pytest.mark.parametrize("part", ["method", "recipe", "transform", "task"])
def test_a_saved_folder_with_a_field_that_is_not_known_is_refused_by_its_name(vit, tmp_path, part):
    task = sidetune.Multilabel(classes=("sun", "rain"))
    model = sidetune.adapt(vit, "lora", task=task)
    model.recipe = Recipe()
    model.save_pretrained(tmp_path)
    told = json.loads((tmp_path / CONFIG).read_text())
    told.pop("sha256", None)
    told[part]["glow"] = 0.5
    (tmp_path / CONFIG).write_text(sealed_json(told))
    with pytest.raises(sidetune.errors.DataError, match="with glow = 0.5, which this version .* not know"):
        sidetune.load(tmp_path, backbone=vit, force=True)
