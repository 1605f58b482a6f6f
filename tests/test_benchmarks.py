"""How a benchmark's line is made from its measured pairs."""

import pytest

from benchmarks.harness import Sides, columns, load_cases, timed


def sides(**options):
    return Sides(lambda: 1, lambda: 1, lambda ours, other: None, 100.0, "queries", **options)


def test_rates_and_ratio_are_those_of_the_pair_with_the_median_ratio():
    pairs = [(1.0, 9.0), (2.0, 4.0), (10.0, 30.0)]  # ratios 9, 2 and 3; each side's own median is 2 and 9
    assert columns(sides(), pairs) == {
        "ours": "10 queries/s",
        "other": "3 queries/s",
        "ratio": "**3.00×** (2.00× to 9.00×)",
    }


def test_extra_time_has_a_sign():
    assert columns(sides(overhead=True), [(1.1, 1.0), (0.9, 1.0), (2.0, 1.0)])["ratio"] == "**+10%** (-10% to +100%)"


def test_both_sides_must_agree_before_either_is_timed():
    def same(ours, other):
        raise AssertionError("other answers")

    with pytest.raises(AssertionError, match="other answers"):
        timed(Sides(lambda: 1, lambda: 2, same, 1.0, ""))


def test_every_case_can_be_loaded():
    assert {"exact-512", "extract", "workflow"} <= set(load_cases())
