"""Redundancy of low-rank maps and the principal components of what G adds."""

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from PIL import Image
from torch.nn import functional as F

import sidetune
from sidetune.contract import disturb
from sidetune.measure.analysis import Analysis, analyze, principal, projections, shift
from sidetune.measure.analysis_plots import plot_projections, plot_redundancy
from sidetune.methods import DTL, DTLv2


def trained(backbone, method, seed=0):
    torch.manual_seed(seed)
    model = sidetune.adapt(backbone, method, num_classes=3)
    disturb(model)
    return model


def batches(backbone, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 3, *backbone.card.image_size, generator=generator), None) for n in (3, 2)]


ALL = {"m": 1, "n": 1}


@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
@pytest.mark.parametrize("method", [DTL(fusion="depthwise"), DTLv2(**ALL), DTLv2(share="direct", **ALL)])
def test_cosines_are_of_the_mean_outputs_of_neighbours(kind, method):
    backbone = tiny_backbone(kind)
    model = trained(backbone, method)
    side, given = model.suffix.side, batches(backbone)
    found = analyze(model, given)
    assert model.suffix.side is side, "the model has its own side network again"
    assert found.num_images == 5

    # the inputs of all blocks, stepped through by hand
    writes = (3, 4) if kind == "vit" else (3, 4, 5)
    reads = (3, 4, 5) if isinstance(method, DTL) and kind != "vit" else tuple(backbone.blocks)
    sums, added, state = {}, {i: [] for i in writes}, None
    with torch.no_grad():
        z = backbone.stem(torch.cat([images for images, _ in given]))
        for i, block in backbone.blocks.items():
            z = backbone.transitions[i](z) if i in backbone.transitions else z
            if i in reads:
                w = side.w[str(i)]
                sums[i] = (backbone.layout.to_side(z) @ w.a.T @ w.c.T).flatten(0, -2).mean(dim=0)
                state = side.read(i, z, state)
            z = block(z)
            if i in writes:
                after = side.write(i, z, state)
                added[i] = backbone.layout.to_side(after - z).flatten(1, -2).mean(dim=1)
                z = after
    assert [p.blocks for p in found.pairs] == ([(1, 2), (2, 3), (3, 4)] if kind == "vit" else [(3, 4)])
    assert tuple(found.outputs) == writes
    for pair in found.pairs:
        expected = F.cosine_similarity(*(sums[i] for i in pair.blocks), dim=0)
        assert pair.cosine == pytest.approx(expected.item(), abs=1e-3)
    assert found.mean_cosine == pytest.approx(np.mean([p.cosine for p in found.pairs]))
    for i, points in found.outputs.items():
        assert np.allclose(points, added[i].numpy(), atol=1e-5)


def test_maps_that_say_the_same_have_a_cosine_of_one_and_opposites_of_minus_one(vit):
    model = trained(vit, DTLv2(reads=(1, 2), writes=(2,)))
    first, second = model.suffix.side.w["1"], model.suffix.side.w["2"]
    with torch.no_grad():
        first.c[:, 1], second.c[:, 1] = 0, 0
        second.c[:, 0] = -2 * first.c[:, 0]
    (pair,) = analyze(model, batches(vit)).pairs
    assert abs(pair.cosine) == pytest.approx(1, abs=1e-6), "rank one: the means lie on one line"


def test_components_are_those_of_all_groups_together():
    rng = np.random.default_rng(0)
    axis = rng.standard_normal(7)
    axis /= np.linalg.norm(axis)
    groups = {name: (rng.standard_normal((20, 1)) + centre) * axis + 4 for name, centre in (("a", 0.0), ("b", 5.0))}
    points, explained = principal(groups)
    assert explained[0] == pytest.approx(1) and explained[1] == pytest.approx(0, abs=1e-9)
    apart = points["b"][:, 0].mean() - points["a"][:, 0].mean()
    direct = np.linalg.norm(groups["b"].mean(axis=0) - groups["a"].mean(axis=0))
    assert abs(apart) == pytest.approx(direct), "components keep distances"
    assert np.allclose(np.concatenate(list(points.values())).mean(axis=0), 0)


def test_a_shift_is_counted_in_spreads():
    apart = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert shift(apart, apart) == 0
    assert shift(apart, apart + [0, 3]) == pytest.approx(3)


def test_blocks_with_one_h_and_one_g_coincide_and_l_share_moves_them_apart(vit):
    choices = {"reads": (1,), "writes": (3, 4)}
    found = {
        "direct": analyze(trained(vit, DTLv2(share="direct", **choices)), batches(vit)),
        "linear": analyze(trained(vit, DTLv2(share="linear", **choices)), batches(vit)),
        "apart": analyze(trained(vit, DTLv2(**choices)), batches(vit)),
    }
    direct, linear = projections(found)
    assert [p.title for p in (direct, linear)] == [
        "direct (share) and apart, stage 1",
        "linear (share) and apart, stage 1",
    ]
    assert list(direct.points) == ["3", "3 (share)", "4", "4 (share)"]
    assert np.allclose(direct.points["3 (share)"], direct.points["4 (share)"], atol=1e-6)
    assert not np.allclose(linear.points["3 (share)"], linear.points["4 (share)"], atol=1e-3)
    assert direct.shifts.keys() == {"3", "4"} and all(s > 0 for s in direct.shifts.values())


def test_models_of_one_kind_are_drawn_by_themselves(vit):
    found = {name: analyze(trained(vit, DTLv2(), seed), batches(vit)) for seed, name in enumerate("ab")}
    assert [(p.title, dict(p.shifts)) for p in projections(found)] == [("a, stage 1", {}), ("b, stage 1", {})]


def test_a_model_is_paired_with_the_one_that_writes_the_same_blocks(vit):
    found = {
        "v1": analyze(trained(vit, DTL(fusion="depthwise")), batches(vit)),
        "other": analyze(trained(vit, DTLv2(writes=(4,))), batches(vit)),
        "apart": analyze(trained(vit, DTLv2(writes=(2, 4))), batches(vit)),
        "shared": analyze(trained(vit, DTLv2(share="direct", writes=(2, 4))), batches(vit)),
    }
    titles = [p.title for p in projections(found)]
    assert titles == ["v1, stage 1", "other, stage 1", "shared (share) and apart, stage 1"]


def test_what_cannot_be_analysed_says_why(vit):
    with pytest.raises(ValueError, match="only DTL and DTLv2 have what is analysed; this model's method is LoRA"):
        analyze(sidetune.adapt(vit, "lora", num_classes=3), batches(vit))
    with pytest.raises(ValueError, match=r"w of blocks \[1, 4\] gives zero on every image: the model is not trained"):
        analyze(sidetune.adapt(vit, "dtlv2", num_classes=3), batches(vit))
    with pytest.raises(ValueError, match="give at least two"):
        analyze(trained(vit, DTLv2()), [(torch.zeros(1, 3, 32, 32), None)])
    with pytest.raises(ValueError, match="all 6 points are the same"):
        principal({"a": np.ones((6, 2))})


def test_pictures_are_drawn_for_many_models_and_for_none_to_pair(tmp_path, vit):
    alone = Analysis(num_images=2, pairs=(), outputs={4: np.eye(2)}, stages=dict.fromkeys(range(1, 5), 1), shares=False)
    found = {"one": analyze(trained(vit, DTLv2(**ALL)), batches(vit)), "two": alone}
    plot_redundancy(found, tmp_path / "redundancy.png")
    plot_projections(projections(found), tmp_path / "fusion.png")
    for name in ("redundancy.png", "fusion.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert picture.std() > 5, "something is drawn"
