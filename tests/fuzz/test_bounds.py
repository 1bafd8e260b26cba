"""Absurd objects cost neither memory nor time: each is refused in a process that has little of both."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fuzz.bounded import CASES


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    def one(case: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.bounded", case], capture_output=True, text=True, timeout=120
        )
        return done.stdout + "".join(done.stderr.splitlines()[-1:]) + ("" if done.returncode == 0 else " (died)")

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(CASES, pool.map(one, CASES), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_refused_within_bounds(said: dict[str, str], case: str) -> None:
    assert said[case].startswith("refused: "), said[case]
