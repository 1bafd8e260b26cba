"""How little a few successes prove: the exact one-sided lower bound of Clopper and Pearson.

Four successes out of four prove, at 95 % confidence, only that the true rate is at least 47 %; twelve out of twelve, 78 %.
"""

from __future__ import annotations

import math
from typing import Any

CONFIDENCE = 0.95


def lower_bound(successes: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """The smallest true rate at which this many successes, or more, are not too good to be true; 0 when nothing was tried.

    Clopper & Pearson, Biometrika 26 (1934) 404: the p that solves P(X >= successes | trials, p) = 1 - confidence.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes out of {trials}")
    if successes == 0:
        return 0.0
    alpha = 1 - confidence
    if successes == trials:
        return math.pow(alpha, 1 / trials)
    low, high = 0.0, successes / trials
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(successes, trials, middle) < alpha:
            low = middle
        else:
            high = middle
    return low


def rate(successes: int, trials: int) -> dict[str, Any]:
    """A rate as the report writes it: never without its count and its bound, and no share when nothing was tried."""
    return {
        "successes": successes,
        "trials": trials,
        "share": floor(successes / trials) if trials else None,
        "lower95": floor(lower_bound(successes, trials)) if trials else None,
    }


def floor(share: float, digits: int = 4) -> float:
    """Cut, never rounded up: 0.99999 is not everything."""
    return math.floor(share * 10.0**digits + 1e-9) / 10.0**digits


def _at_least(successes: int, trials: int, p: float) -> float:
    """P(X >= successes) of the binomial distribution."""
    if p <= 0:
        return 0.0
    whole = math.lgamma(trials + 1)
    yes, no = math.log(p), math.log1p(-p)
    terms = (
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * yes + (trials - k) * no)
        for k in range(successes, trials + 1)
    )
    return math.fsum(terms)
