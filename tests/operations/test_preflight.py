"""`job check` looks at the staging host too: what it lacks, and whether there is room."""

from __future__ import annotations

import pytest

from backupctl.hosts.staging import register
from backupctl.operations.context import Context
from backupctl.operations.preflight import preflight
from backupctl.sources.sqlite import SqliteSource


def told(context: Context) -> list[str]:
    found = preflight(context, context.job("site"))
    return [f"{subject}: {one.severity}: {one.message}" for subject, one in found if one.severity != "info"]


@pytest.fixture
def staged(context: Context) -> Context:
    options = context.settings.hosts["staging"]
    register(context.resources.host("staging"), str(options.scratch).encode(), "staging")
    return context


def limit(context: Context, **changes: object) -> None:
    context.settings.hosts["staging"] = context.settings.hosts["staging"].model_copy(update=changes)


def test_nothing_to_say_where_all_is_in_place(staged: Context) -> None:
    assert told(staged) == []


def test_too_little_room_is_told_before_the_first_night(staged: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(staged, max_disk=1000)
    (message,) = told(staged)
    assert message.startswith("drill full: error: drills on host staging may use 1,000 bytes; this one needs about ")
    limit(staged, max_disk=None)
    host = staged.resources.host("staging")
    monkeypatch.setattr(type(host), "free_bytes", lambda self, path: 77 if b"staging" in path else 10**12)
    (message,) = told(staged)
    assert "has 77 bytes free" in message


def test_an_older_library_on_the_staging_host(staged: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"staging": "3.7.2", "local": "3.40.1"}
    monkeypatch.setattr("backupctl.sources.sqlite.sqlite_version", lambda host: versions[host.name])
    (message,) = told(staged)
    assert "SQLite 3.7.2, host local 3.40.1" in message
    versions["staging"] = ""
    (message,) = told(staged)
    assert "no sqlite3 module" in message


def test_a_source_that_cannot_be_asked_is_told_once(staged: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: SqliteSource, host: object, staging: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(SqliteSource, "staging_needs", refuse)
    assert told(staged) == []
