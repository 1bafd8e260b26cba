"""`concurrency.memory` with limits that the kernel enforces: a clear failure with the job's name, and nothing behind it."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.hosts.workers import WorkerDiedError, Workers
from backupctl.operations import copy
from backupctl.operations.context import Context
from backupctl.operations.memory import limited, want_of_memory
from backupctl.operations.setup import create_repository
from backupctl.repository.check import check
from backupctl.scheduling import worker
from tests.end_to_end.site import Site

MIB = 1 << 20
VAULT = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"
CODES = {0: "complete", 1: "failed", 3: "complete"}


def configured(site: Site, mib: int) -> Settings:
    site.configure(main=f"cache: false\nconcurrency: {{memory: {mib}MiB}}\n", job="copies: [vault]\n")
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("hosts:\n", VAULT + "hosts:\n", 1))
    return load(main)


def roomy() -> int:
    """MiB: what this process, which many tests have used before, holds already, and half a gigabyte more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (held,) = [line.split()[1] for line in lines if line.startswith("VmData:")]
    return int(held) // 1024 + 512


def test_a_run_ends_clearly_wherever_it_meets_its_limit(site: Site) -> None:
    """From one that does not even open the repository to one that is enough, through whatever lies between: threads that
    cannot start, workers that cannot take a task, copies that cannot be made."""
    for number in range(24):
        (site.root / "input" / "www" / f"{number}.bin").write_bytes(os.urandom(1_500_000))
    configured(site, 1024)
    site.run("init")
    ended = []
    for mib in (60, 105, 140, 512):
        configured(site, mib)
        said = site.run("run", "site", expect=tuple(CODES))
        ended.append(said.code)
        assert (f"concurrency.memory allows each of its processes: {mib * MIB:,} bytes" in said.text) == bool(said.code)
        if said.code == 1:
            assert "error: backup site wanted more memory" in said.err
        catalog = Catalog.open(f"sqlite:///{site.root}/catalog.db", clock=SystemClock())
        assert catalog.runs(kind="backup")[0].state == CODES[said.code], "whatever it met, its row is closed"
        catalog.close()
    assert ended[0] == 1 and ended[-1] == 0, f"the smallest is too little for any run, the largest is enough: {ended}"
    site.run("check", "main", "vault", "--read-data")


def test_copies_that_want_too_much_leave_a_complete_run_with_warnings(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib = roomy()
    settings = configured(site, mib)
    copy_to = copy.copy_to

    def greedy(*arguments: object, **options: object) -> None:
        bytearray(mib * MIB)
        copy_to(*arguments, **options)  # type: ignore[arg-type]  # never reached

    monkeypatch.setattr(copy, "copy_to", greedy)
    with Context.open(settings, clock=SystemClock()) as context:
        for name in ("main", "vault"):
            create_repository(context, name)
        queued = context.catalog.enqueue("backup", "site", context.clock.now(), trigger="manual")
        assert queued is not None
        assert worker.execute_run(context, queued.id) == 3
        run = context.catalog.run(queued.id)
        assert run is not None and run.state == "complete"
        assert "copy vault lags: copying site wanted more memory than concurrency.memory allows" in run.message
        monkeypatch.undo()
        result = copy.copy_job(context, context.job("site"), "vault")
        assert (result.error, len(result.copied)) == ("", 1), "nothing was left in the way"
        assert not check(context.resources.repository("vault"), read_data=True).problems


class Large:
    """Small on its way, and so many bytes where it arrives."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __reduce__(self) -> tuple[type[bytearray], tuple[int]]:
        return bytearray, (self._size,)

    def __len__(self) -> int:
        return self._size


def test_workers_are_held_to_the_limit_and_the_run_is_itself_again(site: Site) -> None:
    mib = roomy()
    settings = configured(site, mib)
    before = resource.getrlimit(resource.RLIMIT_DATA), threading.stack_size()
    with limited(settings), Workers(1) as workers:
        assert workers.submit(resource.getrlimit, resource.RLIMIT_DATA).result(timeout=60)[0] == mib * MIB
        with pytest.raises(MemoryError):
            workers.submit(bytearray, mib * MIB).result(timeout=60)
        with pytest.raises(WorkerDiedError) as caught:  # it cannot even take what it is given
            workers.submit(len, Large(mib * MIB)).result(timeout=60)
        assert isinstance(caught.value.__cause__, MemoryError)
        said = want_of_memory(settings, "backup site", caught.value)
    assert said is not None and "backup site" in said.message and f"{mib * MIB:,} bytes" in said.message
    assert not said.transient, "it would want as much again"
    assert (resource.getrlimit(resource.RLIMIT_DATA), threading.stack_size()) == before


def test_a_worker_that_the_kernel_killed_is_told_as_that(site: Site) -> None:
    settings = configured(site, 512)
    workers = Workers(1)
    os.kill(workers.submit(os.getpid).result(timeout=60), signal.SIGKILL)
    with pytest.raises(WorkerDiedError) as caught:
        workers.submit(len, b"").result(timeout=60)
    workers.close()
    said = want_of_memory(settings, "backup site", caught.value)
    assert said is not None and said.transient and "backup site: one of its processes was killed" in said.message
    assert want_of_memory(settings, "backup site", ValueError("something else")) is None
