"""What keeps a drill away from production."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from backupctl.config.models import RepositorySettings, Settings
from backupctl.drills.interlocks import (
    Production,
    machine_hash,
    machines_of,
    nonce_hash,
    refuse_paths,
    refuse_places,
    refuse_production,
    refuse_reach,
    refuse_server,
)
from backupctl.errors import CouldNotRunError
from backupctl.hosts.local import LocalHost
from backupctl.sources.protocol import DatabaseSource, Instance

HOST = LocalHost("staging")
HERE = machine_hash(HOST.facts())


def test_a_machine_of_production_is_refused_unless_the_configuration_says_so() -> None:
    production = Production(machines_of([("site", [{"name": "db", "machine": HERE}, {"name": "old"}])]), {})
    with pytest.raises(CouldNotRunError, match="is the machine of source site/db") as refused:
        refuse_production(production, HOST, b"/scratch", "n", local=False)
    assert "same_machine: true" in refused.value.next_step
    allowed = refuse_production(replace(production, same_machine=True), HOST, b"/scratch", "n", local=False)
    assert any("allowed by `same_machine`" in line for line in allowed)
    elsewhere = Production({"another": "source site/db"}, {})
    assert any("none of 1" in line for line in refuse_production(elsewhere, HOST, b"/scratch", "n", local=False))


def test_only_the_registered_marker_counts() -> None:
    production = Production({}, {}, nonce=nonce_hash("registered"))
    assert "as registered" in refuse_production(production, HOST, b"/scratch", "registered", local=False)[0]
    with pytest.raises(CouldNotRunError, match="not the one that was registered"):
        refuse_production(production, HOST, b"/scratch", "copied", local=False)


def test_paths_of_production_are_no_scratch_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "repository").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "repository")
    paths = {os.fsencode(tmp_path / "repository"): "repository main", os.fsencode(tmp_path / "catalog.db"): "catalog"}
    assert "apart from 2 paths" in refuse_paths(paths, os.fsencode(tmp_path / "scratch"))
    for scratch in ("repository", "alias", "repository/inside", "."):
        with pytest.raises(CouldNotRunError, match="overlaps"):
            refuse_paths(paths, os.fsencode(tmp_path / scratch))


def places(base: Path, **storages: dict[str, dict[str, str]]) -> Settings:
    """A configuration in `base` with repositories there."""
    every = {
        name: RepositorySettings.model_validate({"storage": storage, "password": {"file": "key"}})
        for name, storage in storages.items()
    }
    return Settings.model_construct(repositories=every, base=base)


def test_a_drill_writes_into_no_bucket_of_production_whatever_the_prefix() -> None:
    real = places(
        Path("/etc/backupctl"),
        offsite={"s3": {"bucket": "agency", "prefix": "a"}},
        disk={"local": {"path": "/srv/repository"}},
        beside={"local": {"path": "repository"}},
        home={"local": {"path": "~/repository"}},
    )
    room = Path("/drill")
    refuse_places(places(room, drill={"s3": {"bucket": "drills"}}), real)
    refuse_places(places(room, drill={"s3": {"bucket": "agency", "endpoint": "https://other.example"}}), real)
    refuse_places(places(room, drill={"local": {"path": "repository"}}), real)
    for own in (
        {"s3": {"bucket": "agency", "prefix": "drill"}},
        {"local": {"path": "/srv/x/../repository"}},
        {"local": {"path": "/etc/backupctl/repository"}},
        {"local": {"path": str(Path.home() / "repository")}},
    ):
        with pytest.raises(CouldNotRunError, match="in the place of repository"):
            refuse_places(places(room, drill=own), real)


class Server:
    name, kind = "db", "postgresql"

    def __init__(self, data: str, identifier: str) -> None:
        self.answers = {"SHOW data_directory": data}
        self.identifier = identifier

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        return [[self.answers.get(sql, self.identifier)]]


def test_a_server_that_is_not_the_drills_own_is_never_loaded() -> None:
    instance, saved = Instance("postgresql", HOST, b"/drill/db0", "15", pid=1), {"system_identifier": "71"}

    def ask(data: str, identifier: str) -> list[str]:
        source = cast("DatabaseSource", Server(data, identifier))
        return refuse_server(source, instance, b"/drill", saved)

    assert len(ask("/drill/db0", "72")) == 2
    with pytest.raises(CouldNotRunError, match="keeps its data in /var/lib/postgresql"):
        ask("/var/lib/postgresql", "72")
    with pytest.raises(CouldNotRunError, match=r"keeps its data in /drill/\.\./var"):
        ask("/drill/../var", "72")
    with pytest.raises(CouldNotRunError, match="is the one that was backed up"):
        ask("/drill/db0", "71")


def test_a_staging_host_that_reaches_production_is_refused() -> None:
    with socket.socket() as listening, socket.socket() as closed:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        closed.bind(("127.0.0.1", 0))  # nobody listens: refused
        open_, shut = (f"127.0.0.1:{one.getsockname()[1]}" for one in (listening, closed))
        production = Production({}, {}, unreachable={shut: "db1", open_: "web1", "no.such.name.invalid:22": "web2"})
        with pytest.raises(CouldNotRunError, match=f"reaches production: web1 .{open_}."):
            refuse_production(production, HOST, b"/scratch", "n", local=False)
        looked = refuse_production(replace(production, unreachable={shut: "db1"}), HOST, b"/scratch", "n", local=False)
        assert "no connection came through to any of 1 addresses of production" in looked[-1]


def test_an_isolation_that_cannot_be_tried_is_refused() -> None:
    class Broken(LocalHost):
        def run(self, argv, **given):
            return super().run(["false"], **given)

    with pytest.raises(CouldNotRunError, match="cannot be tried"):
        refuse_reach({"127.0.0.1:1": "web1"}, Broken("staging"))
