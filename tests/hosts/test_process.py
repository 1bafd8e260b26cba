"""Processes on this machine: what happens to them when we die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backupctl.errors import UserError
from backupctl.hosts import process
from tests.conformance.test_hosts import await_gone

PARENT = """
import sys, threading
from backupctl.hosts.process import LocalProcess
child = LocalProcess(["sh", "-c", "sleep 1000 & echo $! $$; wait"])
print(child.stdout.read(100).decode().strip(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_children_do_not_outlive_us(how: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pids = [int(text) for text in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(how)
    parent.wait(timeout=60)
    await_gone(pids)
    parent.stdin.close()
    parent.stdout.close()


def test_the_end_of_the_thread_that_started_it_does_not_kill_a_command() -> None:
    started: list[process.LocalProcess] = []
    thread = threading.Thread(target=lambda: started.append(process.LocalProcess(["sh", "-c", "read x; echo $x"])))
    thread.start()
    thread.join()
    with started[0] as running:
        running.stdin.write(b"alive\n")
        assert running.stdout.read(100) == b"alive\n"
        assert running.finish(timeout=60).returncode == 0


def test_no_descriptor_of_ours_reaches_a_command() -> None:
    secret = os.open("/etc/hostname", os.O_RDONLY)
    try:
        assert sorted(process.run(["ls", "/proc/self/fd"]).stdout.split()) == [b"0", b"1", b"2", b"3"]  # 3 is ls's own
    finally:
        os.close(secret)


def test_nothing_is_left_open() -> None:
    process.run(["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        process.run(["sh", "-c", "exit 1"])
        process.run(["no-such-program"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_nul_byte_in_an_argument() -> None:
    with pytest.raises(UserError, match="NUL"):
        process.run(["echo", "a\0b"])


def test_a_program_that_may_not_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    done = process.run([str(tmp_path / "file")])
    assert (done.returncode, done.stderr) == (126, f"{tmp_path}/file: Permission denied\n")


def test_writing_to_a_command_that_is_gone() -> None:
    with process.LocalProcess(["true"]) as gone:
        assert gone.stdout.read() == b""
        gone._popen.wait(timeout=60)
        with pytest.raises(BrokenPipeError):
            gone.stdin.write(b"x" * 1_000_000)
        assert gone.finish().returncode == 0


def test_input_that_nobody_reads_is_given_up_before_its_descriptor_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: failures.append(failure.exc_value))
    for _ in range(20):
        assert process.run(["true"], stdin=bytes(1 << 24)).returncode == 0
        assert [thread.name for thread in threading.enumerate() if "_feed" in thread.name] == []
    assert failures == []
