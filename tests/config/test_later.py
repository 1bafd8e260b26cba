"""What few configurations have is imported when it comes, and is then as good as what is always there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backupctl.config.document import ConfigFaults
from backupctl.config.load import load
from backupctl.config.models import MainFile

LATER = {f"backupctl.config.{name}" for name in ("channels", "drilling", "fleet", "hooks", "standby")}
LEAN = "version: 1\nrepositories: {main: {storage: {local: {path: repository}}, password: {file: key}}}\n"
FULL = (
    LEAN
    + """\
notify: {ops: {heartbeat: {url: "https://monitor.example/x"}}}
jobs:
  site:
    sources: {data: {files: {paths: [/srv]}}}
    repository: main
    objectives: {rpo: 24h, rto: 2h}
    hooks: [{before: run, command: ["true"]}]
"""
)


@pytest.mark.parametrize(
    ("text", "there"), [(LEAN, set()), (FULL, {"backupctl.config.channels", "backupctl.config.hooks"})]
)
def test_a_section_is_imported_when_there_is_one(tmp_path: Path, text: str, there: set[str]) -> None:
    path = tmp_path / "backupctl.yaml"
    path.write_text(text)
    program = f"import sys; from pathlib import Path; from backupctl.config.load import load; load(Path({str(path)!r}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{program}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert LATER & set(done.stdout.split()) == there


def test_what_is_wrong_in_it_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "backupctl.yaml"
    path.write_text(LEAN + "notify:\n  ops:\n    heartbeet: {url: https://monitor.example/x}\n")
    with pytest.raises(ConfigFaults) as raised:
        load(path)
    assert "backupctl.yaml:5:5: notify.ops.heartbeet: unknown key; did you mean 'heartbeat'?" in str(raised.value)


def test_it_is_documented_like_the_rest() -> None:
    text = str(MainFile.model_json_schema())
    assert "A channel: one or more ways to tell the same people." in text and "How often a worker" in text
