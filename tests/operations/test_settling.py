"""A run reads while its lock settles, and writes nothing before: whoever began a prune in that moment wins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backupctl.clock import FakeClock
from backupctl.config.hooks import HookSettings
from backupctl.operations.context import Context
from backupctl.repository.format.lock import LockInfo
from backupctl.repository.repository import Repository
from backupctl.scheduling import worker
from tests.end_to_end.site import Site


def prune_begins(repository: Repository) -> None:
    repository.locks.write(LockInfo(repository.clock.now(), True, "elsewhere", "eve", 4711))


def prune_ends(repository: Repository) -> None:
    for name in repository.list_ids("index/"):
        repository.store.delete(f"index/{name}")


@pytest.mark.parametrize(
    ("meanwhile", "said"), [(prune_begins, "locked exclusively by eve"), (prune_ends, "pruned in this very moment")]
)
def test_what_is_pruned_in_the_same_moment_ends_the_run(
    context: Context,
    clock: FakeClock,
    site: Site,
    meanwhile: Callable[[Repository], None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> tuple[int, str]:
        queued = context.catalog.enqueue("backup", "site", clock.now(), trigger="manual")
        assert queued is not None
        code = worker.execute_run(context, queued.id)
        ended = context.catalog.run(queued.id)
        assert ended is not None
        return code, ended.message

    assert run() == (0, "")
    repository = context.resources.repository("main")
    before = {info.name for info in repository.store.list()}
    (site.root / "input" / "www" / "new.txt").write_text("written after the first run")
    with monkeypatch.context() as patched:
        patched.setattr(clock, "sleep", lambda seconds: meanwhile(repository))
        code, message = run()
    assert (code, said in message) == (11, True), message
    assert {info.name for info in repository.store.list() if not info.name.startswith("locks/")} <= before
    assert len(repository.snapshot_ids()) == 1


def test_hooks_wait_until_the_lock_is_settled(
    context: Context, clock: FakeClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = site.root / "touched"
    context.job("site").hooks.append(HookSettings(before="run", command=["touch", str(touched)]))
    repository = context.resources.repository("main")
    queued = context.catalog.enqueue("backup", "site", clock.now(), trigger="manual")
    assert queued is not None
    monkeypatch.setattr(clock, "sleep", lambda seconds: prune_begins(repository))
    assert worker.execute_run(context, queued.id) == 11
    assert not touched.exists()
