"""A new orchestrator from recovery kits, by function and through the command line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from backupctl.config.load import load
from backupctl.errors import UsageError
from backupctl.operations.bootstrap import Kit, write_bootstrap
from backupctl.operations.context import Context
from backupctl.operations.starter import recovery_kit, write_recovery_kit
from tests.faults.inside import InsideSite

S3 = {"storage": {"s3": {"bucket": "agency", "credentials": {"file": "/old/s3"}}}, "password": {"file": "main.key"}}


def test_a_kit_says_all_that_a_new_machine_needs(context: Context, tmp_path: Path) -> None:
    kit = Kit.read(recovery_kit(context, "main"))
    assert kit.repository == "main"
    assert kit.password not in repr(kit)
    path = write_bootstrap([kit], tmp_path / "new")
    assert path.stat().st_mode & 0o777 == (tmp_path / "new" / "main.key").stat().st_mode & 0o777 == 0o600
    with Context.open(load(path), clock=context.clock) as again:
        assert again.resources.repository("main").id == context.resources.repository("main").id == kit.id


def test_nothing_is_overwritten_and_no_kit_is_taken_twice(context: Context, tmp_path: Path) -> None:
    kit = Kit.read(recovery_kit(context, "main"))
    with pytest.raises(UsageError, match="same repository"):
        write_bootstrap([kit, kit], tmp_path / "new")
    write_bootstrap([kit], tmp_path / "new")
    with pytest.raises(UsageError, match="exists; nothing was written"):
        write_bootstrap([replace(kit, repository="other")], tmp_path / "new")
    assert not (tmp_path / "new" / "other.key").exists()


def test_credentials_may_lie_elsewhere_on_the_new_machine(tmp_path: Path) -> None:
    kit = Kit("main", "0" * 64, S3, "secret")
    path = write_bootstrap([kit], tmp_path, credentials=tmp_path / "s3")
    place = load(path).repositories["main"].storage.s3
    assert place is not None
    assert place.credentials is not None
    assert place.credentials.file == str(tmp_path / "s3")


@pytest.mark.parametrize("missing", ["password   ", "id     ", "  main: ", "RECOVERY KIT"])
def test_what_is_no_kit_is_refused(context: Context, missing: str) -> None:
    text = recovery_kit(context, "main")
    with pytest.raises(UsageError, match="no recovery kit"):
        Kit.read("\n".join(line for line in text.splitlines() if missing not in line))


def test_bootstrap_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = InsideSite.start(tmp_path, monkeypatch)
    site.run("run")
    site.run("drill", "run")
    with Context.open(load(site.root / "backupctl.yaml")) as context:
        kit = write_recovery_kit(context, "main")
    new = tmp_path / "new"
    said = site.run("bootstrap", str(kit), "--into", str(new), "--json")
    rebuilt = said.line("rebuilt")
    assert (rebuilt["snapshots"], rebuilt["drills"], rebuilt["problems"]) == (1, 1, [])
    assert "password" not in said.text
    said = site.run("bootstrap", str(kit), "--into", str(new), expect=2)
    assert "exists; nothing was written" in said.text
    other = "id         " + "0" * 64
    kit.write_text(re.sub(r"^id +[0-9a-f]{64}$", other, kit.read_text(), flags=re.MULTILINE))
    said = site.run("bootstrap", str(kit), "--into", str(tmp_path / "replaced"), "--json", expect=3)
    (problem,) = said.line("rebuilt")["problems"]
    assert "is another repository than the kit of main" in problem
    kit.chmod(0o644)
    assert "chmod 600" in site.run("bootstrap", str(kit), "--into", str(tmp_path / "other"), expect=13).text
