"""Worker processes: results, errors, death, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backupctl.errors import UsageError, UserError
from backupctl.hosts.workers import WorkerDiedError, Workers, worker_count


def test_results_come_back_and_large_ones_in_both_directions_do_not_block() -> None:
    with Workers(2) as workers:
        block = bytes(range(256)) * 20_000  # 5 MB, several times a pipe
        futures = [workers.submit(bytes.__add__, block, bytes([n])) for n in range(12)]
        assert [future.result(timeout=60) for future in futures] == [block + bytes([n]) for n in range(12)]


def test_no_process_is_started_before_there_is_work_and_no_more_than_there_is_work_for() -> None:
    workers = Workers(4)
    assert workers._workers == []
    assert workers.submit(os.getpid).result(timeout=60) != os.getpid()
    assert len(workers._workers) == 1
    workers.close()


def test_an_exception_comes_out_of_the_future_and_the_worker_goes_on() -> None:
    with Workers(1) as workers:
        with pytest.raises(FileNotFoundError) as caught:
            workers.submit(os.stat, b"/does/not/exist").result(timeout=60)
        assert caught.value.errno
        assert workers.submit(len, b"abc").result(timeout=60) == 3


def _raise_awkward() -> None:
    class Awkward(UserError):
        def __init__(self, *, path: bytes) -> None:
            super().__init__(f"awkward {path!r}")

    raise Awkward(path=b"x")


def test_an_exception_that_cannot_be_pickled_comes_as_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where the worker finds this very module
    with Workers(1) as workers, pytest.raises(RuntimeError, match=r"_raise_awkward[\s\S]*awkward b'x'"):
        workers.submit(_raise_awkward).result(timeout=60)


def test_arguments_that_cannot_be_pickled_are_an_error_of_that_task() -> None:
    with Workers(1) as workers, pytest.raises((TypeError, AttributeError)):
        workers.submit(repr, (n for n in range(1))).result(timeout=60)


def test_what_a_task_prints_does_not_disturb_the_answers() -> None:
    with Workers(1) as workers:
        assert workers.submit(os.write, 1, b"noise\n").result(timeout=60) == 6
        assert workers.submit(len, b"abc").result(timeout=60) == 3


def test_a_killed_worker_fails_its_tasks_and_those_that_come_later() -> None:
    workers = Workers(1)
    pid = workers.submit(os.getpid).result(timeout=60)
    os.kill(pid, signal.SIGKILL)
    for _ in range(5):
        with pytest.raises(WorkerDiedError):
            workers.submit(len, b"abc").result(timeout=60)
    workers.close()


class Unreadable:
    """Comes back as something that this process cannot make: like an answer of a worker whose program was replaced."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return getattr, ("text", "no such attribute")


def make_unreadable() -> Unreadable:
    return Unreadable()


def test_an_answer_that_cannot_be_read_fails_its_task_instead_of_waiting_for_ever() -> None:
    workers = Workers(1)
    with pytest.raises(WorkerDiedError, match="AttributeError"):
        workers.submit(make_unreadable).result(timeout=60)
    workers.close()


def test_kill_does_not_wait_for_the_work() -> None:
    workers = Workers(1)
    future = workers.submit(time.sleep, 600)
    workers.kill()
    with pytest.raises(WorkerDiedError):
        future.result(timeout=60)
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(len, b"")


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal\n"
        "from backupctl.hosts.workers import Workers\n"
        "workers = Workers(2)\n"
        "pids = {workers.submit(os.getpid) for _ in range(8)}\n"
        "print(*{future.result() for future in pids}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    pids = [int(text) for text in done.stdout.split()]
    assert pids
    deadline = time.monotonic() + 30
    while any(_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"


def test_workers_forked_beforehand_do_the_same() -> None:
    """In a process of its own: a fork wants one without threads."""
    program = (
        "import os, signal, sys\n"
        "from backupctl.hosts import workers\n"
        "with workers.prepared('json'):\n"
        "    ready = {one._pid for one in workers._prepared}\n"
        "    with workers.Workers(2) as pool:\n"
        "        block = bytes(5_000_000)\n"
        "        futures = [pool.submit(bytes.__add__, block, bytes([n])) for n in range(8)]\n"
        "        assert [future.result(60) for future in futures] == [block + bytes([n]) for n in range(8)]\n"
        "        assert pool.submit(os.write, 1, b'noise').result(60) == 5\n"
        "        there = \"'json' in __import__('sys').modules\"\n"
        "        assert {pool.submit(eval, there).result(60) for _ in range(4)} == {True}\n"
        "        assert {pool.submit(os.getpid).result(60) for _ in range(4)} <= ready\n"
        "        # what we have open is not theirs: else one would keep the other alive\n"
        "        assert len(pool.submit(os.listdir, '/proc/self/fd').result(60)) <= 6\n"
        "with workers.prepared('json'):\n"
        "    pool = workers.Workers(1)\n"
        "    unused = workers._prepared[0]._pid\n"
        "    pid = pool.submit(os.getpid).result(60)\n"
        "    os.kill(pid, signal.SIGKILL)\n"
        "    try:\n"
        "        pool.submit(len, b'abc').result(60)\n"
        "    except workers.WorkerDiedError as error:\n"
        "        assert error.status == -signal.SIGKILL, error\n"
        "    pool.close()\n"
        "assert not workers._prepared and not os.path.exists(f'/proc/{unused}')\n"
        "with workers.prepared('json'):\n"
        "    print(*[one._pid for one in workers._prepared], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"BACKUPCTL_WORKERS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=60, env=environment
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    pids = [int(text) for text in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"


def _running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status != "Z"


def test_a_terminals_interrupt_is_the_parents_business() -> None:
    with Workers(1) as workers:
        pid = workers.submit(os.getpid).result(timeout=60)
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert workers.submit(os.getpid).result(timeout=60) == pid


def test_the_count_follows_the_processors_or_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKUPCTL_WORKERS", raising=False)
    assert worker_count() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("BACKUPCTL_WORKERS", "7")
    assert worker_count() == 7
    monkeypatch.setenv("BACKUPCTL_WORKERS", "nonsense")
    with pytest.raises(UsageError, match="BACKUPCTL_WORKERS=nonsense is no number"):
        worker_count()
