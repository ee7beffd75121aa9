"""Taps are values with one spelling."""

import pytest

from sidetune.seam.taps import Need, Tap, block_input, block_output, last_block, pooled, sum_of_taps


def test_every_tap_is_spelt_one_way_and_read_back():
    spelt = {
        "input.3": block_input(3),
        "output.0": block_output(0),
        "sum.12": sum_of_taps(12),
        "pool.mean": pooled("mean"),
    }
    assert {str(tap): tap for tap in spelt.values()} == spelt
    assert {name: Tap.named(name) for name in spelt} == spelt


@pytest.mark.parametrize(
    "name",
    [
        "",
        "input",
        "input.0",
        "last.3",
        "pool",
        "inputs.3",
        "input.",
        "input.x",
        "output.-1",
        "sum.01",
        "sum.1e3",
        "sum.٣",
        "3",
    ],
)
def test_other_spellings_are_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match=r"unknown tap .*; known: input.I, output.I, sum.K with .*, pool.NAME"):
        Tap.named(name)


def test_what_is_no_tap_is_refused():
    for make, number in ((block_input, 0), (block_output, -1), (sum_of_taps, -1)):
        with pytest.raises(
            ValueError, match=f"blocks count from 1, and only outputs and sums .* the stem, 0; got {number}"
        ):
            make(number)


def test_the_last_block_that_has_to_run():
    assert last_block(Need(), 12) == 0
    assert last_block(Need({block_output(0)}), 12) == 0
    assert last_block(Need({block_input(3), sum_of_taps(5), block_output(4)}), 12) == 5
    assert last_block(Need({block_input(3), pooled("mean")}), 12) == 12
