"""The table of damages is whole: each is planted by a test, once, and the page for people says the same."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from tests.damage import matrix

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "database-damage.md"
KINDS = sorted(path.stem for path in (Path(__file__).parent / "rows").glob("[a-z]*.py"))


def test_page_is_current() -> None:
    assert PAGE.read_text() == matrix.markdown(), "python -m tests.damage.matrix > docs/reference/database-damage.md"


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_planted(kind: str) -> None:
    cases = import_module(f"tests.damage.rows.{kind}").ROWS.cases
    names = [case.damage for case in cases]
    assert len(set(names)) == len(names) > 0
    assert set(import_module(f"tests.damage.test_{kind}").PLANTS) == set(names)


def test_a_case_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(AssertionError):
        matrix.Case("x", "run", "fail", 4, "x", 3)
    with pytest.raises(AssertionError):
        matrix.Case("x", "drill", "fail", 4, "x")
