from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgenet.attention.reduction import fit_reduction, hidden_units
from sgenet.errors import ConfigError


@given(channels=st.integers(1, 4096), reduction=st.integers(1, 128))
def test_a_fitted_reduction_is_the_asked_one_or_leaves_four_units(channels, reduction):
    fitted = fit_reduction(channels, {"reduction": reduction, "bias": False})
    assert fitted["bias"] is False
    if hidden_units(channels, reduction) >= 4:
        assert fitted["reduction"] == reduction
    else:
        assert hidden_units(channels, fitted["reduction"]) >= min(4, channels)
        assert fitted["reduction"] <= reduction


def test_what_is_no_number_is_not_fitted():
    assert fit_reduction(64, {"reduction": "x"}) == {"reduction": "x"}


@pytest.mark.parametrize("reduction", [0, -3])
def test_a_reduction_below_one_is_refused_and_not_fitted(reduction):
    assert fit_reduction(64, {"reduction": reduction}) == {"reduction": reduction}
    with pytest.raises(ConfigError, match=f"reduction={reduction} is not possible; give 1 or more"):
        hidden_units(64, reduction)
