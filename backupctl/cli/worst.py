"""One exit code for several runs."""

from __future__ import annotations

from collections.abc import Iterable

# from harmless to grave; a code not named here (a signal, a bug) is the gravest
_GRAVITY = (0, 75, 3, 6, 5, 15, 11, 14, 13, 12, 10, 2, 1, 4, 130)


def worst(codes: Iterable[int]) -> int:
    """The gravest code; all of them are computed. 0 for none."""
    return max(codes, key=lambda code: _GRAVITY.index(code) if code in _GRAVITY else len(_GRAVITY), default=0)
