"""LST: the ladder, the pruning it starts from, and what it reads."""

import pytest
import timm
import torch
from conftest import tiny_backbone

import sidetune
from sidetune.choose.look import Shown
from sidetune.contract import check_method, disturb, vector
from sidetune.measure.parameters import count
from sidetune.methods.lst import LST
from sidetune.methods.pruning import NEEDED, WEIGHTS, fisher, kept_in, kept_stream, magnitude, prune
from sidetune.recipe import Recipe
from sidetune.seam.taps import block_input, block_output
from sidetune.train.kept import share_features

QUICK = Recipe(epochs=2, batch_size=8, precision="fp32", lr=3e-3)


@pytest.fixture(scope="module")
def on_vit_b():
    with torch.device("meta"):
        network = timm.create_model("vit_base_patch16_224", num_classes=0)
    return sidetune.adapt(network, "lst", num_classes=10)


def test_parameters_on_vit_b_are_the_tables(on_vit_b):
    assert count(on_vit_b).trainable == 2_376_492
    assert on_vit_b.frozen_depth == on_vit_b.num_blocks == 12


def test_all_thirteen_taps_cross_the_seam(on_vit_b):
    assert on_vit_b.need == {*map(block_input, range(1, 13)), block_output(12)}
    assert round(sidetune.plan(on_vit_b, Recipe(precision="fp32")).features_bytes / 2**20, 3) == 7.503


def test_the_ladder_is_the_papers_equation(vit):
    model = sidetune.adapt(vit, LST(temperature=0.5), num_classes=3)
    disturb(model)
    side, images = model.suffix.side, torch.randn(2, 3, 32, 32)
    taps = [vit.stem(images)]
    for block in vit.blocks.values():
        taps.append(block(taps[-1]))
    h = side.down[0](taps[0])
    for i in range(1, 5):
        gate = 1 / (1 + torch.exp(-side.alpha[str(i)] / 0.5))
        h = side.blocks[str(i)](gate * h + (1 - gate) * (taps[i] @ side.down[i].weight.T + side.down[i].bias))
    expected = vit.pools["token"](side.up(side.norm(h)))
    assert torch.allclose(vector(model, images), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_a_copy_pruned_by_nothing_is_the_block_layer_scale_included(kind):
    backbone = tiny_backbone(kind)
    blocks, paths = dict(backbone.blocks), backbone.paths(*NEEDED)
    copies = {i: backbone.family.narrowed(block, i, 1) for i, block in blocks.items()}
    prune(blocks, copies, paths, magnitude(blocks, paths), 1, dict.fromkeys(blocks, 3))
    z = torch.randn(2, 7, 48)
    for i, block in blocks.items():
        assert torch.allclose(copies[i](z), block(z), atol=1e-5)


def test_what_matters_most_is_kept_and_queries_keep_their_keys(vit):
    magnitudes = magnitude(vit.blocks, vit.paths(*NEEDED))
    importance = {i: {role: torch.rand_like(w) for role, w in of.items()} for i, of in magnitudes.items()}
    for of in importance.values():
        of["projection"][[5, 40]] += 100
        of["fc1"][[3, 100]] += 100
        of["qkv"][48 + 16 + 7] += 100  # channel 7 of the second head's key
        of["projection"][:, 32 + 9] += 100  # channel 9 of the third head's value
    stream = kept_stream(importance, 2)
    assert stream.tolist() == [5, 40]
    kept = kept_in(3, importance[1], stream, 16)
    queries, keys, values = kept.qkv.chunk(3)
    assert torch.equal(keys, queries + 48) and torch.equal(values, kept.values + 96)
    assert queries.tolist()[1] == 23 and kept.values.tolist()[2] == 41
    assert {3, 100} <= set(kept.hidden.tolist())


def test_fisher_information_is_the_squared_gradient_summed_over_images(vit):
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 2, 1])
    model = sidetune.adapt(vit, "lst", num_classes=3)
    found = fisher(vit.blocks, vit.paths(*NEEDED), Shown(model, list(zip(images, labels.tolist(), strict=True))))

    plain = timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=48, num_heads=3, img_size=32, patch_size=8)
    plain.reset_classifier(3)
    for i, block in vit.blocks.items():
        plain.blocks[i - 1].load_state_dict(block.state_dict())
    plain.norm.load_state_dict(vit.pools["token"].norm.state_dict())
    plain.head.load_state_dict(model.head.state_dict())
    expected = torch.zeros(144, 48)
    for image, label in zip(images, labels.split(1), strict=True):
        plain.zero_grad()
        z = vit.stem(image[None])
        for block in plain.blocks:
            z = block(z)
        model.task.loss(plain.head(plain.norm(z)[:, 0]), label).backward()
        expected += plain.blocks[1].attn.qkv.weight.grad ** 2
    assert torch.allclose(found[2]["qkv"], expected, rtol=1e-3, atol=1e-12)
    assert found.keys() == vit.blocks.keys() and all(of.keys() == set(WEIGHTS) for of in found.values())


def blocks_of(model):
    return torch.cat([p.detach().flatten() for p in model.suffix.side.blocks.parameters()])


def test_fit_starts_from_fisher_information_once(vit, samples):
    model, other = (
        sidetune.adapt(vit, LST(start=s), classes=samples.classes, transform="vtab") for s in ("fisher", "magnitude")
    )
    assert torch.equal(blocks_of(model), blocks_of(other))
    sidetune.begin(model, samples)
    sidetune.begin(other, samples)
    begun = blocks_of(model)
    assert not torch.equal(begun, blocks_of(other))
    sidetune.begin(model, samples)
    assert torch.equal(blocks_of(model), begun)


def test_it_learns_and_its_features_are_kept(vit, samples):
    model = sidetune.adapt(vit, "lst", classes=samples.classes, transform="vtab")
    done = sidetune.fit(
        model, samples, recipe=Recipe(epochs=12, batch_size=8, precision="fp32", lr=1e-2, lr_update="step")
    )
    assert done.features_kept
    assert sidetune.evaluate(model, samples, precision="fp32").accuracy > 0.8


def test_features_alone_have_no_fisher_information(vit, samples):
    model = sidetune.adapt(vit, "lst", classes=samples.classes, transform="vtab")
    shared = share_features({"train": samples}, vit, [model], QUICK, lambda *_: None)["train"]
    with pytest.raises(ValueError, match="LST looks at training images before the first step"):
        sidetune.fit(model, shared, recipe=QUICK)
    sidetune.begin(model, samples)
    sidetune.fit(model, shared, recipe=QUICK)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"reduction": 5}, "reduction 5 does not divide the head width of block 1, 16"),
        ({"reduction": 0}, "reduction must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"start": "random"}, "start must be fisher or magnitude"),
        ({"num_fisher_images": 0}, "num_fisher_images must be at least 1"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, "lst", num_classes=3, **choices)


def test_blocks_of_another_build_cannot_be_pruned():
    network = timm.create_model(
        "vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, img_size=32, patch_size=8, qk_norm=True
    )
    with pytest.raises(ValueError, match="block 1 is a Block of an unusual build"):
        sidetune.adapt(network, "lst", num_classes=3)


def test_other_reductions_keep_the_contract(vit):
    check_method(LST(reduction=4), vit)
