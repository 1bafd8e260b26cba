"""The program that finds and ends what lives in a sandbox, on the real machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.drills import processes
from backupctl.hosts.local import LocalHost

SLEEP = "import sys, time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture
def host() -> LocalHost:
    return LocalHost("staging")


@pytest.fixture
def room(tmp_path: Path) -> Path:
    room = tmp_path / "drill-0123456789ab"
    room.mkdir()
    return room


class Processes:
    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []

    def start(
        self, program: str, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", program, *arguments]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True, cwd=cwd, env=env)
        self.running.append(process)
        assert process.stdout.readline() == b"up\n"
        return process


@pytest.fixture
def started() -> Iterator[Processes]:
    started = Processes()
    yield started
    for process in started.running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def living(host: LocalHost, room: Path, pids: dict[str, str] | None = None) -> list[str]:
    return processes.find(host, [os.fsencode(room)], pids or {}).living


def test_an_empty_room_has_no_inhabitants(host: LocalHost, room: Path) -> None:
    assert processes.find(host, [os.fsencode(room)], {}) == processes.Inhabitants([], [], [], [])


def test_a_process_is_found_by_its_working_directory(host: LocalHost, room: Path, started: Processes) -> None:
    pid = started.start(SLEEP, cwd=room).pid
    assert [text for text in living(host, room) if f"(pid {pid})" in text]


def test_a_process_is_found_by_its_command_line(host: LocalHost, room: Path, started: Processes) -> None:
    pid = started.start(SLEEP, f"--data={room}/db0").pid
    assert [text for text in living(host, room) if f"(pid {pid})" in text]


def test_a_detached_child_of_a_probe_is_found_by_its_environment(
    host: LocalHost, room: Path, started: Processes
) -> None:
    pid = started.start(SLEEP, env={"DRILL_DIRECTORY": str(room)}).pid
    assert [text for text in living(host, room) if f"(pid {pid})" in text]


def test_a_room_whose_name_only_begins_alike_is_another_room(host: LocalHost, room: Path, started: Processes) -> None:
    started.start(SLEEP, f"{room}-2/db0")
    assert living(host, room) == []


def test_a_recorded_pid_counts_only_with_its_start_time(host: LocalHost, room: Path, started: Processes) -> None:
    pid = started.start(SLEEP).pid
    start = processes.start_time(host, pid)
    assert start
    assert living(host, room, {str(pid): start}) == [f"{Path(sys.executable).name} (pid {pid})"]
    assert living(host, room, {str(pid): "1"}) == []


def test_a_process_that_is_gone_has_no_start_time(host: LocalHost, started: Processes) -> None:
    process = started.start(SLEEP)
    process.kill()
    process.wait()
    assert processes.start_time(host, process.pid) == ""


def test_ending_takes_everyone_and_nobody_else(
    host: LocalHost, room: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    inside, stubborn, outside = (
        started.start(SLEEP, cwd=room),
        started.start(STUBBORN, cwd=room),
        started.start(SLEEP, cwd=room.parent),
    )
    left = processes.end(host, [os.fsencode(room)], {})
    assert left.living == []
    assert len(left.ended) == 2
    assert (inside.wait(10), stubborn.wait(10)) == (-15, -9)
    assert outside.poll() is None


def test_a_listening_socket_is_seen(host: LocalHost, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(room)  # the kernel records the name as it was bound, and 107 bytes are the limit
        path = str(room / "s")
        if len(path) > 107:
            pytest.skip("the test directory's path is too long for a socket")
        server.bind(path)
        server.listen()
        monkeypatch.chdir(room.parent)
        assert processes.find(host, [os.fsencode(room)], {}).sockets == [path]
    assert processes.find(host, [os.fsencode(room)], {}).sockets == []
