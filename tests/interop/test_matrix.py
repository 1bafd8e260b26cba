"""Every cell of `docs/reference/restic-interop.md`, also those with a dash."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop import matrix
from tests.interop.bench import PASSWORD, Bench
from tests.interop.matrix import OURS, THEIRS, VERSIONS, Operation
from tests.interop.stock import BINARIES, Restic, required, version_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "restic-interop.md"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    required()
    return Bench.build(tmp_path_factory.mktemp("matrix"), BINARIES)


@pytest.mark.servers
@pytest.mark.parametrize("program", BINARIES or [""], ids=lambda path: path.replace("/", "_") or "none")
@pytest.mark.parametrize("operation", [*OURS, *THEIRS], ids=lambda one: one.title.replace("`", ""))
def test_operation(operation: Operation, program: str, bench: Bench, tmp_path: Path) -> None:
    bench.restic = Restic(program, tmp_path, PASSWORD)
    if bench.restic.version >= operation.since:
        operation.act(bench)
    else:
        refused = bench.restic.ended(bench.ours(), operation.command, expect=None)
        assert refused.code != 0
        assert "unknown command" in refused.text


@pytest.mark.servers
def test_every_version_here_has_a_column() -> None:
    required()
    assert {version_of(program)[:2] for program in BINARIES} <= set(VERSIONS)


def test_the_documented_matrix_is_this_one() -> None:
    assert PAGE.read_text() == matrix.markdown()
