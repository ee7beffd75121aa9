"""Named recipes: what whole papers fix, and how a run carries it."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn, optim

import sidetune
from sidetune.cli.choices import fits
from sidetune.data.samples import Splits
from sidetune.data.transforms import Transform
from sidetune.methods import METHODS
from sidetune.recipe import Recipe
from sidetune.runs.compare import Comparison, compare
from sidetune.runs.conventions import CONVENTIONS, by_dataset, conventions, find_convention, named_run
from sidetune.train.optimizer import make_optimizer

HALF = (0.5, 0.5, 0.5)


def test_lora_and_adapter_mean_what_the_paper_means_by_them():
    assert named_run("noah", "lora").method == METHODS["lora-fused"].__class__(fused=True, pool="token", dropout=0.1)
    assert named_run("fact", "lora").preset == "lora"
    assert CONVENTIONS["vpt"].forms == {"adapter": "adapter-vpt"} and not CONVENTIONS["noah"].forms.get("adapter")


def test_normalisation_checkpoint_and_pooling_differ_as_published():
    by_name = {name: named_run(name, "linear") for name in CONVENTIONS}
    assert {name for name, run in by_name.items() if run.mean == HALF} == {"dtl-aaai24", "ssf", "rlrr"}
    assert {name for name, run in by_name.items() if "augreg" in run.backbone} == {"ssf"}
    assert {name for name, run in by_name.items() if run.method.pool == "mean"} == {"dtl-aaai24"}
    assert named_run("noah", "vpt-deep").mean == HALF and named_run("noah", "lora").mean != HALF
    assert {named_run("noah", name).method.dropout for name in ("vpt-deep", "adapter", "noah")} == {0.1}
    heads = {name: run.method.head_start for name, run in by_name.items()}
    assert {name for name in heads if heads[name] != "normal"} == {"arc", "vpt"} and heads["arc"] == "zero"


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay", "drop_path", "transform"),
    [
        ("ssf/caltech101", 1e-3, 5e-2, 0.1, "vtab-crop"),
        ("ssf/clevr_dist", 5e-2, 5e-2, 0.1, "vtab"),
        ("rlrr/flowers102", 3e-3, 5e-2, 0.3, "vtab"),
        ("rlrr/kitti", 3e-3, 5e-2, 0.3, "vtab-flip"),
        ("fact/svhn", 1e-3, 1e-4, 0.1, "vtab"),
    ],
)
def test_data_sets_have_the_authors_choices(name, lr, weight_decay, drop_path, transform):
    convention = find_convention(name)
    recipe = convention.recipe
    assert (recipe.lr, recipe.weight_decay, recipe.drop_path, convention.transform) == (
        lr,
        weight_decay,
        drop_path,
        transform,
    )


def test_every_data_set_of_vtab_is_there_and_both_kinds_of_fact():
    assert len(by_dataset()) == 4 * 19 and len(list(conventions())) == len(CONVENTIONS) + 76
    assert find_convention("fact/dtd").choices == {
        "fact-tt": {"rank": 8, "scale": 0.01},
        "fact-tk": {"rank": 16, "scale": 0.01},
    }
    assert named_run("vpt/smallnorb_ele").method == replace(
        METHODS["vpt-deep"], num_tokens=200, pool="token", head_start="kaiming"
    )
    direct = {n.partition("/")[2] for n, c in by_dataset().items() if n.startswith("ssf/") and c.transform == "vtab"}
    assert len(direct) == 10


@pytest.mark.parametrize("name", [name for name, _ in conventions()])
def test_what_is_chosen_for_a_preset_are_fields_of_it(name):
    convention = find_convention(name)
    for preset in {convention.method, *convention.choices} & METHODS.keys():
        run = convention.run(preset)
        assert isinstance(run.recipe, Recipe) and fits(run.method.lr, float)


def test_unknown_recipes_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown recipe 'noahs'; did you mean noah.* Known: dtl-aaai24, noah"):
        named_run("noahs")
    with pytest.raises(ValueError, match="unknown recipe 'ssf/cifar'; did you mean ssf/cifar_100.* Known: ssf/"):
        named_run("ssf/cifar")
    with pytest.raises(ValueError, match=r"vtab/cifar_100/vit/dtl is a run of dtl; leave out the method"):
        named_run("vtab/cifar_100/vit/dtl", "lora")


def test_sgd_moves_by_momentum_and_spares_vectors():
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, Recipe(optimizer="sgd", weight_decay=0.1), 0.5)
    assert isinstance(optimizer, optim.SGD) and optimizer.param_groups[1]["weight_decay"] == 0
    start = model.bias.detach().clone()
    for _ in range(2):
        model.bias.grad, model.weight.grad = torch.ones(2), torch.zeros(2, 3)
        optimizer.step()
    assert torch.allclose(model.bias, start - 0.5 * (1 + 1.9))
    with pytest.raises(ValueError, match="optimizer must be one of adamw, sgd"):
        Recipe(optimizer="lion")


def picture():
    left = Image.new("RGB", (40, 20), (255, 0, 0))
    left.paste((0, 0, 255), (20, 0, 40, 20))
    return left


def test_flips_happen_in_training_alone():
    transform = Transform(preset="vtab-flip", image_size=(16, 16), mean=HALF, std=HALF)
    training, plain = transform.training(), transform.evaluation()(picture())
    seen = [training(picture()) for _ in range(20)]
    assert transform.is_random
    assert any(torch.equal(s, plain) for s in seen) and any(torch.equal(s, plain.flip(-1)) for s in seen)


def test_ssf_crops_in_evaluation_alone_and_keeps_both_kinds_of_features(vit, samples, tmp_path):
    transform = Transform(preset="vtab-crop", image_size=(16, 16), mean=HALF, std=HALF)
    assert not transform.is_random
    whole, cropped = transform.training()(picture()), transform.evaluation()(picture())
    assert whole.shape == cropped.shape == (3, 16, 16) and not torch.allclose(whole, cropped, atol=0.1)

    recipe = Recipe(epochs=1, batch_size=8, precision="fp32", lr=1e-2)
    model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab-crop")
    sidetune.fit(model, samples, val=samples, recipe=recipe, store=tmp_path)
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2, "prepared otherwise, kept apart"


def test_a_comparison_keeps_whose_choices_it_follows(vit, samples, tmp_path):
    run = named_run("noah", "lora")
    recipe = replace(run.recipe, epochs=1, batch_size=8, warmup_epochs=0)
    splits = Splits(name="squares", train=samples, val=None, test=samples)
    done, _ = compare(splits, vit, {"lora": run.method}, recipe=recipe, transform=run.transform, named_recipe="noah")
    done.save(tmp_path / "c.json")
    loaded = Comparison.load(tmp_path / "c.json")
    assert loaded == done and loaded.named_recipe == "noah" and loaded.mean == vit.card.mean
    assert loaded.rows[0].choices["type"] == "LoRA" and loaded.rows[0].choices["fused"] is True
    old = json.loads((tmp_path / "c.json").read_text())
    for name in ("named_recipe", "mean", "std"):
        del old[name]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert Comparison.load(tmp_path / "old.json").named_recipe is None
