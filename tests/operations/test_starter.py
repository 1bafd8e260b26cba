"""`init`: what it writes works as it stands, and never over anything."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from backupctl.config.load import load
from backupctl.errors import NoSuchError, UsageError, UserError, WrongKeyError
from backupctl.operations.context import Context
from backupctl.operations.setup import create_repository
from backupctl.operations.starter import write_recovery_kit, write_starter
from tests.end_to_end.site import Site


@pytest.mark.parametrize("name", ["plain", "with space", 'quo"te', "a, b: [c] #d", "網站"])
def test_the_starter_is_valid_and_protects_that_path(name: str, tmp_path: Path) -> None:
    protect = tmp_path / name
    protect.mkdir()
    main, job = write_starter(tmp_path, protect, "Asia/Taipei")
    assert stat.S_IMODE(main.stat().st_mode) == stat.S_IMODE(job.stat().st_mode) == 0o600
    settings = load(main)
    assert settings.jobs["example"].sources["files"].options.model_dump()["paths"] == [str(protect)]
    assert settings.jobs["example"].timezone == "Asia/Taipei"


def test_the_starter_never_overwrites(tmp_path: Path) -> None:
    write_starter(tmp_path, tmp_path, "UTC")
    before = (tmp_path / "backupctl.yaml").read_bytes()
    with pytest.raises(UsageError, match="nothing was written"):
        write_starter(tmp_path, tmp_path / "other", "UTC")
    assert (tmp_path / "backupctl.yaml").read_bytes() == before


def test_a_repository_is_made_once_and_its_key_is_kept(context: Context, site: Site) -> None:
    key = (site.root / "repository.key").read_bytes()
    assert stat.S_IMODE((site.root / "repository.key").stat().st_mode) == 0o600
    again = create_repository(context, "main")
    assert (again.existed, again.key_file) == (True, "")
    assert (site.root / "repository.key").read_bytes() == key


def test_a_repository_that_another_password_opens_is_refused(context: Context, site: Site) -> None:
    (site.root / "repository.key").write_text("another\n")
    with Context.open(context.settings, clock=context.clock) as fresh, pytest.raises(WrongKeyError):
        create_repository(fresh, "main")


def test_an_unknown_repository_is_told_with_those_there_are(context: Context) -> None:
    with pytest.raises(NoSuchError, match="known: main"):
        create_repository(context, "nope")


def test_a_kit_that_cannot_be_written_is_told_with_what_to_do(context: Context) -> None:
    path = write_recovery_kit(context, "main")
    path.unlink()
    path.mkdir()  # in its place, which no right of root's changes
    (path / "inside").touch()
    with pytest.raises(UserError, match=f"{path.name}.*directory") as caught:
        write_recovery_kit(context, "main")
    assert "backupctl key kit main" in caught.value.next_step


def test_the_recovery_kit_holds_the_place_the_password_and_both_ways_back(context: Context, site: Site) -> None:
    path = write_recovery_kit(context, "main")
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    password = (site.root / "repository.key").read_text().strip()
    assert password in text
    assert str(site.repository) in text
    assert "backupctl catalog rebuild" in text
    assert f"restic -r {site.repository} snapshots" in text
    assert write_recovery_kit(context, "main") == path, "a new one takes the old one's place"
    assert not list(site.root.glob("*.new"))
    assert all(password not in str(event.detail) for event in context.catalog.events())
