"""What pages of every kind share."""

import pytest

from knnlm.outputs import pages


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.000"), (0.0004, "4.0e-04"), (0.0005, "0.001"), (0.25, "0.250"), (1.0, "1.000")]
)
def test_a_probability_has_three_decimals_unless_these_are_zeros(value: float, shown: str):
    assert pages.probability(value) == shown
