"""Searching: evolution finds the best admissible candidate, and a supernet's sub-networks are its candidates."""

import random

import pytest

import sidetune
from sidetune.choose.evolution import Evolution, evolve
from sidetune.memo import Memo
from sidetune.methods import METHODS
from sidetune.methods.noah import NOAH
from sidetune.recipe import Recipe
from sidetune.runs import sizes as supernet
from sidetune.runs.sizes import search_sizes

BITS = 12


def run(admissible=lambda c: True, generations=8, seed=0):
    rng, asked = random.Random(seed), []

    def score(c):
        asked.append(c)
        return sum(c) / BITS

    def flip(c):
        i = rng.randrange(BITS)
        return (*c[:i], 1 - c[i], *c[i + 1 :])

    found = evolve(
        draw=lambda: tuple(rng.randrange(2) if rng.random() < 0.4 else 0 for _ in range(BITS)),
        mutate=flip,
        cross=lambda a, b: tuple(rng.choice(pair) for pair in zip(a, b, strict=True)),
        admissible=admissible,
        score=score,
        choose=rng.choice,
        how=Evolution(generations=generations),
        first=(0,) * BITS,
    )
    return found, asked


def test_evolution_finds_what_random_candidates_do_not():
    found, asked = run()
    assert found[0].candidate == (1,) * BITS and found[0].generation > 1
    assert max(sum(c) for c in asked[:50]) < BITS
    assert len(asked) == len(set(asked)) == len(found), "nothing is scored twice"
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)


def test_a_limit_is_kept_and_a_small_space_comes_to_an_end():
    found, asked = run(admissible=lambda c: sum(c) <= 5)
    assert max(sum(c) for c in asked) == 5 and sum(found[0].candidate) == 5
    found, _ = run(admissible=lambda c: not any(c[2:]))
    assert len(found) == 4


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"generations": 0}, "generations must be at least 1"),
        ({"population": 10}, "mutations and crossovers are parts of the population, 10"),
    ],
)
def test_evolutions_that_make_no_sense_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Evolution(**choices)


QUICK = Recipe(epochs=3, batch_size=8, precision="fp32", lr=5e-3)
SHORT = Evolution.of(3, 6)


def searched(vit, samples, method=NOAH(), limit=9_000, **how):  # noqa: B008
    how = {"recipe": QUICK, "evolution": SHORT, "transform": "vtab", "max_parameters": limit, **how}
    return search_sizes(vit, method, samples, samples, **how)


def test_the_found_sub_network_keeps_the_limit_and_trains(vit, samples):
    found = searched(vit, samples)
    sizes = [found.method.num_parameters(vit, s.candidate) for s in found.scored]
    assert len(found.scored) > 6 and max(sizes) <= 9_000
    best = max(s.score for s in found.scored)
    assert found.val_accuracy == best
    assert found.num_parameters == min(n for n, s in zip(sizes, found.scored, strict=True) if s.score == best)
    model = sidetune.adapt(vit, found.method, classes=samples.classes, transform="vtab")
    assert (
        sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "head" not in n)
        == found.num_parameters
    )
    recipe = Recipe(epochs=12, batch_size=8, precision="fp32", lr=1e-2, lr_update="step")
    sidetune.fit(model, samples, recipe=recipe)
    assert sidetune.evaluate(model, samples, precision="fp32").accuracy > 0.8


def test_the_same_seed_finds_the_same(vit, samples):
    assert searched(vit, samples).scored == searched(vit, samples).scored


def test_scores_that_are_known_are_not_found_again(vit, samples, tmp_path, monkeypatch):
    memo = Memo(tmp_path / "scores.json")
    first = searched(vit, samples, memo=memo)
    scored = []
    accuracy = supernet.score
    monkeypatch.setattr(supernet, "score", lambda *given: scored.append(1) or accuracy(*given))
    assert searched(vit, samples, memo=Memo(tmp_path / "scores.json")).scored == first.scored and not scored
    searched(vit, samples.subset(range(len(samples) - 1)), memo=memo)
    assert scored, "other images, other scores"


def test_limits_that_nothing_keeps_and_methods_without_sizes_are_refused(vit, samples):
    smallest = NOAH().num_parameters(vit, NOAH().space(vit).smallest)
    with pytest.raises(ValueError, match=f"max_parameters is 100, but the smallest sub-network has {smallest}"):
        searched(vit, samples, limit=100)
    assert {searched(vit, samples, limit=smallest).num_parameters} == {smallest}
    with pytest.raises(ValueError, match="LoRA has no sizes to search for"):
        searched(vit, samples, METHODS["lora"])
