"""Memory counted to the byte, and comparisons that end in a report."""

import json
import math

import pytest
import torch

import sidetune
from sidetune.data.samples import Splits
from sidetune.measure.memory import TensorBytes, training_peak
from sidetune.methods import METHODS
from sidetune.recipe import Recipe
from sidetune.runs.compare import Comparison, compare
from sidetune.runs.report import cells, markdown, write_report

MIB = 2**20


def test_tensors_are_counted_while_they_live():
    with TensorBytes() as tracker:
        a = torch.zeros(MIB // 4)
        view = a[:10]
        b = a + 1
        assert tracker.alive == tracker.peak == 2 * MIB
        del a
        assert tracker.alive == 2 * MIB, "the view keeps the storage"
        del view
        assert tracker.alive == MIB
        b += 1
        assert tracker.alive == MIB and tracker.peak == 2 * MIB
        tracker.reset_peak()
        assert tracker.peak == MIB


def test_tensors_given_are_counted_once_with_all_their_storage():
    weight = torch.zeros(MIB // 4)
    with TensorBytes([weight, weight[:5]]) as tracker:
        assert tracker.alive == MIB


def test_the_peak_of_a_linear_step_is_what_paper_and_pencil_say():
    """Weights, AdamW's two moments, the gradient and the batch are alive when the optimizer steps."""
    weight = torch.zeros(1000, 1000, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], fused=True)
    x = torch.zeros(2, 1000)
    with TensorBytes([weight, x]) as tracker:
        for _ in range(2):
            tracker.reset_peak()
            (x @ weight).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    exact = 4 * (4 * 1000 * 1000 + 2 * 1000)
    assert exact <= tracker.peak <= exact + 50_000


def test_a_methods_peak_is_repeatable_and_ordered_and_leaves_the_model_as_it_was(vit):
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 3
    peaks = {}
    for name in ("linear", "dtl", "lora", "full"):
        model = sidetune.adapt(vit, name, num_classes=3)
        before = {n: t.clone() for n, t in model.trained().items()}
        peaks[name] = training_peak(model, images, labels, Recipe(precision="fp32"))
        assert peaks[name] == training_peak(model, images, labels, Recipe(precision="fp32"))
        assert all(torch.equal(before[n], t) for n, t in model.trained().items())
    assert peaks["linear"] < peaks["dtl"] < peaks["lora"] < peaks["full"]


@pytest.fixture
def splits(samples):
    return Splits(name="squares", train=samples, val=samples.subset(range(9)), test=samples.subset(range(9, 21)))


def test_a_comparison_measures_every_method_with_every_seed_and_writes_its_report(vit, splits, tmp_path):
    methods = {name: METHODS[name] for name in ("linear", "lora", "dtl+", "full")}
    recipe = Recipe(epochs=2, batch_size=8)
    comparison, models = compare(
        splits,
        vit,
        methods,
        recipe=recipe,
        epochs={"full": 1},
        seeds=(0, 1),
        transform="vtab",
        out=tmp_path / "adapters",
    )
    assert [row.method for row in comparison.rows] == list(methods)
    by_name = {row.method: row for row in comparison.rows}
    assert len(by_name["full"].histories[0]) == 1 and len(by_name["dtl+"].histories[1]) == 2
    assert by_name["dtl+"].features_kept and not by_name["full"].features_kept
    assert comparison.shared_features_seconds > 0 and not math.isnan(by_name["lora"].spread)
    for name, model in models.items():
        score = sidetune.evaluate(model, splits.test)
        assert score.accuracy == pytest.approx(by_name[name].accuracies[0], abs=0.1)
        assert (tmp_path / "adapters" / name / "model.safetensors").exists()

    write_report(tmp_path, [(comparison, models, splits.test)])
    assert Comparison.load(tmp_path / "results-squares.json") == comparison
    result = json.loads((tmp_path / "results-squares.json").read_text())
    assert result["versions"]["torch"] and result["command"] and len(result["rows"]) == 4
    assert cells(by_name["dtl+"])[2] == f"{by_name['dtl+'].parameters.trainable:,}"
    assert markdown(comparison) in (tmp_path / "report.md").read_text()
    for picture in ("accuracy-memory", "curves", "predictions-squares"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000


def test_shared_features_change_no_result(vit, splits):
    methods = {"dtl+": METHODS["dtl+"]}
    results = [
        compare(
            splits, vit, methods, recipe=Recipe(epochs=2, batch_size=8, precision="fp32", features=f), transform="vtab"
        )
        for f in ("auto", "off")
    ]
    losses = [[e.loss for e in comparison.rows[0].histories[0]] for comparison, _ in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_there_must_be_something_to_score_on(vit, samples):
    bare = Splits(name="bare", train=samples, val=None, test=None)
    with pytest.raises(ValueError, match="neither test nor validation"):
        compare(bare, vit, {"dtl": METHODS["dtl"]}, recipe=Recipe(epochs=1))
