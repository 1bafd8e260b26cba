"""What `storage check` says, and its exit code: a claimed lock that is not kept is never green."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backupctl.storage.local import LocalStore
from backupctl.storage.protocol import Immutability, ProbeResult
from tests.faults.inside import InsideSite

KEPT = Immutability(True, "compliance; everything was refused", True, ("fill the bucket",))
BROKEN = Immutability(False, "delete the locked version: accepted", True)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InsideSite:
    site = InsideSite.start(tmp_path, monkeypatch)
    site.configure()
    return site


def last(text: str, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [one for one in map(json.loads, text.splitlines()) if one["type"] == kind]
    return found[-1]


def test_a_disk_is_never_called_immutable(site: InsideSite) -> None:
    said = site.run("storage", "check", "main")
    assert "refuses deletion: no (measured): a local directory" in said.out
    line = last(site.run("storage", "check", "main", "--json").out, "immutability")
    assert line["refuses_deletion"] is False and line["claimed"] is False


def test_the_verdict_is_the_exit_code(site: InsideSite, monkeypatch: pytest.MonkeyPatch) -> None:
    good = ("write an object", "written", True)
    monkeypatch.setattr(LocalStore, "probe", lambda store: ProbeResult((good,), BROKEN))
    said = site.run("storage", "check", "main", expect=4)
    assert "refuses deletion: no (measured): delete the locked version: accepted" in said.out
    assert "claims a lock that the store does not keep" in said.err
    monkeypatch.setattr(LocalStore, "probe", lambda store: ProbeResult((good,), KEPT))
    said = site.run("storage", "check", "main")
    assert "refuses deletion: yes (measured)" in said.out
    assert "still possible with these credentials: fill the bucket" in said.out
    line = last(site.run("storage", "check", "main", "--json").out, "immutability")
    assert line["refuses_deletion"] is True and line["possible"] == ["fill the bucket"]
    monkeypatch.setattr(LocalStore, "probe", lambda store: ProbeResult((("read it", "lost", False),), KEPT))
    site.run("storage", "check", "main", expect=4)
