"""Who is dead for sure, and who only cannot be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupctl.hosts import identity


def test_a_process_is_told_from_the_others_that_had_its_pid() -> None:
    own = os.getpid()
    started = identity.start_time(own)
    assert started > 0
    assert not identity.has_ended(own, started)
    assert identity.has_ended(own, started - 1)


def test_a_zombie_has_ended_and_so_has_who_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = identity.start_time(child.pid)
    assert not identity.has_ended(child.pid, started)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.has_ended(child.pid, started)
    child.wait()
    assert identity.has_ended(child.pid, started)
    assert identity.has_ended(1 << 40, started)


def test_a_process_that_is_hidden_from_us_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc mounted with hidepid=2 shows nobody else's processes."""
    own, started = os.getpid(), identity.start_time(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(identity, "PROC", tmp_path)
    assert not identity.has_ended(own, started)
    assert identity.has_ended(gone.pid, started)
    assert (identity.boot_id(), identity.pid_namespace()) == ("", "")
