from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.evidence.bounds import floor, lower_bound, rate


@pytest.mark.parametrize(
    ("successes", "trials", "bound"),
    [(4, 4, 0.473), (12, 12, 0.779), (11, 12, 0.661), (29, 29, 0.902), (59, 59, 0.950), (1, 2, 0.0253), (0, 7, 0), (0, 0, 0)],
)  # fmt: skip
def test_known_bounds(successes: int, trials: int, bound: float) -> None:
    assert lower_bound(successes, trials) == pytest.approx(bound, abs=6e-4)


@given(st.integers(1, 400), st.data())
def test_the_bound_is_below_the_rate_and_grows_with_successes(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(1, trials))
    bound = lower_bound(successes, trials)
    assert 0 < bound < successes / trials or bound == pytest.approx(0.05 ** (1 / trials))
    assert bound > lower_bound(successes - 1, trials)


def test_many_trials_do_not_overflow() -> None:
    assert 0.99 < lower_bound(19_980, 20_000) < 0.999


def test_nothing_tried_has_no_share() -> None:
    assert rate(0, 0) == {"successes": 0, "trials": 0, "share": None, "lower95": None}


def test_a_share_is_cut_and_never_rounded_up() -> None:
    assert floor(0.99999) == 0.9999
    assert floor(1.0) == 1.0
    assert floor(0.3) == 0.3


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes out of 2"):
        lower_bound(3, 2)
