from __future__ import annotations

import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.config.resources import Resources
from backupctl.errors import ConfigError, NoSuchError, StorageError, UserError
from backupctl.hosts.secret import SecretRef
from backupctl.repository.repository import Repository
from tests.config.test_load import JOB, MAIN, write

CLOCK = FakeClock(datetime(2026, 11, 21, 18, 15, tzinfo=UTC))


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys" / "offsite.key"
    key.write_text("correct horse\n")
    key.chmod(0o600)
    return Resources(load(write(tmp_path, MAIN, website=JOB)), CLOCK)


def test_a_repository_is_opened_once_where_the_configuration_says(resources: Resources, tmp_path: Path) -> None:
    with resources:
        with pytest.raises(UserError):
            resources.repository("offsite")  # nothing is there yet
        assert not (tmp_path / "repository").exists()
    with resources:
        made = Repository.create(resources.store("offsite", create=True), "correct horse", clock=CLOCK, scrypt_n=2)
        assert resources.repository("offsite").id == made.id
        assert resources.repository("offsite") is resources.repository("offsite")
        assert resources.store("offsite") is resources.store("offsite")
        assert (tmp_path / "repository" / "config").exists()


def test_hosts_and_sources(resources: Resources) -> None:
    with resources:
        host = resources.host("local")
        assert host.run(["echo", "hello"]).stdout == b"hello\n"
        assert resources.host("local") is host and resources.host("staging").name == "staging"
        job = resources.settings.jobs["website"]
        assert (resources.source(job, "db").kind, resources.source(job, "db").name) == ("sqlite", "db")
        assert resources.source(job, "uploads").kind == "files"
        with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY"):  # the login key of its jump host
            resources.host("web1")


def test_unknown_names_say_what_there_is(resources: Resources) -> None:
    with resources:
        for name, call in (
            ("offsite", lambda: resources.repository("ofsite")),
            ("offsite", lambda: resources.store("ofsite")),
            ("bastion, local, staging, web1", lambda: resources.host("web2")),
            ("db, uploads", lambda: resources.source(resources.settings.jobs["website"], "nothing")),
        ):
            with pytest.raises(NoSuchError, match=name):
                call()


def test_a_password_that_is_no_text(resources: Resources, tmp_path: Path) -> None:
    (tmp_path / "keys" / "offsite.key").write_bytes(b"\xff\xfe\n")
    with resources, pytest.raises(ConfigError, match="no UTF-8 text"):
        resources.password("offsite")
    assert resources.secret(SecretRef(command=["echo", "x"])) == b"x"
    assert issubclass(StorageError, UserError)


def test_the_cache_is_where_the_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def place(line: str) -> Path | None:
        settings = load(write(tmp_path, MAIN + line, website=JOB))
        with Resources(settings, CLOCK) as resources:
            found = resources._cache_place(settings.repositories["offsite"])
            assert found is None or found.trees is False, "a local repository is as near as any cache"
            return found and found.directory

    assert place("") == tmp_path / "xdg" / "backupctl"
    assert place("cache: {directory: near, max_size: 10MB}\n") == tmp_path / "near"
    assert place("cache: false\n") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert place("") == tmp_path / "home" / ".cache" / "backupctl"
    for wrong in ("cache: {max_size: many}\n", "cache: {size: 1GiB}\n", "cache: 3\n"):
        with pytest.raises(ConfigError, match="cache"):
            place(wrong)


def test_a_repository_opened_ahead_is_locked_by_who_asks_for_the_lock(resources: Resources, tmp_path: Path) -> None:
    locks = tmp_path / "repository" / "locks"
    with resources:
        Repository.create(resources.store("offsite", create=True), "correct horse", clock=CLOCK, scrypt_n=2)
        resources.open_ahead("offsite")
        repository = resources.repository("offsite")
        (written,) = locks.iterdir()
        with repository.lock() as held:
            assert [path.name for path in locks.iterdir()] == [written.name] == [held.info and held.info.id]
        assert list(locks.iterdir()) == []
        with repository.lock():
            assert len(list(locks.iterdir())) == 1


def test_what_was_opened_ahead_and_not_used_leaves_no_lock(resources: Resources, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGHUP)
    with resources:
        Repository.create(resources.store("offsite", create=True), "correct horse", clock=CLOCK, scrypt_n=2)
        resources.open_ahead("offsite")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        resources.repository("offsite")
    assert list((tmp_path / "repository" / "locks").iterdir()) == []
    assert signal.getsignal(signal.SIGHUP) is before


def test_an_exclusive_lock_is_not_refused_because_of_our_own_written_ahead(
    resources: Resources, tmp_path: Path
) -> None:
    with resources:
        Repository.create(resources.store("offsite", create=True), "correct horse", clock=CLOCK, scrypt_n=2)
        resources.open_ahead("offsite")
        with resources.repository("offsite").lock(exclusive=True) as held:
            assert held.exclusive and len(list((tmp_path / "repository" / "locks").iterdir())) == 1


def test_what_goes_wrong_ahead_is_raised_where_the_repository_is_asked_for(resources: Resources) -> None:
    with resources:
        resources.open_ahead("offsite")  # nothing is there
        with pytest.raises(UserError, match="no such directory"):
            resources.repository("offsite")
        Repository.create(resources.store("offsite", create=True), "correct horse", clock=CLOCK, scrypt_n=2)
        assert resources.repository("offsite")  # asked again, it is tried again
