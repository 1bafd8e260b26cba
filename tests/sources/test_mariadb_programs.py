"""Several series of MariaDB's programs side by side: which ones are taken for a server, and which are refused."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from backupctl.errors import CouldNotRunError, SourceError, UsageError
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_instance import install_command, server_program
from backupctl.sources.mariadb_physical_instance import backup_program
from backupctl.sources.mariadb_programs import any_client, choose_client, directories, refuse_other_series
from backupctl.sources.reading_rules import rules
from tests.sources.helpers import HOST

SAID = {
    "mariadb": "mariadb  Ver 15.1 Distrib {}-MariaDB, for debian-linux-gnu",
    "mariadb-dump": "mariadb-dump from {}-MariaDB, client 10.19 for debian-linux-gnu",
    "mariadb-backup": "mariadb-backup based on MariaDB server {}-MariaDB debian-linux-gnu",
    "mariadbd": "mariadbd  Ver {}-MariaDB-1 for debian-linux-gnu",
}


def installed(root: Path, *versions: str) -> str:
    """`bin_dir` for directories of programs that only say their version."""
    for version in versions:
        directory = root / f"mariadb-{version}" / "bin"
        directory.mkdir(parents=True)
        for name, words in SAID.items():
            (directory / name).write_text(f'#!/bin/sh\necho "{words.format(version)}"\n')
            (directory / name).chmod(0o755)
        (directory / "mariadb-install-db").touch()
    return f"{root}/mariadb-{{series}}/bin"


def chosen(bin_dir: str, server: str) -> str:
    client = choose_client(MariadbClient(HOST, "s", (), ""), bin_dir, server)
    assert client.client.rpartition("/")[0] == client.dumper.rpartition("/")[0]
    return client.dumper.split("/")[-3]


def test_the_servers_own_series_else_the_next_newer_one(tmp_path: Path) -> None:
    bin_dir = installed(tmp_path, "10.6.21", "10.11.14", "10.11.2", "11.4.2")
    (tmp_path / "mariadb-old").mkdir()
    assert [one.split("/")[-2] for one in directories(HOST, bin_dir)] == [
        "mariadb-10.6.21",
        "mariadb-10.11.2",
        "mariadb-10.11.14",
        "mariadb-11.4.2",
    ]
    assert chosen(bin_dir, "10.11.8") == "mariadb-10.11.14", "the newest of the series"
    assert chosen(bin_dir, "10.6.1") == "mariadb-10.6.21"
    assert chosen(bin_dir, "10.8.3") == "mariadb-10.11.14"
    assert any_client(MariadbClient(HOST, "s", (), ""), bin_dir).client.split("/")[-3] == "mariadb-11.4.2"
    with pytest.raises(SourceError, match=r"MariaDB 11\.8\.1; .* the newest is 11\.4\.2") as caught:
        chosen(bin_dir, "11.8.1")
    assert "11.8 or newer" in caught.value.next_step
    with pytest.raises(SourceError, match="no mariadb in"):
        any_client(MariadbClient(HOST, "s", (), ""), f"{tmp_path}/nowhere-{{series}}/bin")
    with pytest.raises(SourceError, match="there is none"):
        chosen(f"{tmp_path}/nowhere-{{series}}/bin", "10.11.8")


def test_files_of_a_server_are_read_and_prepared_by_its_own_series(tmp_path: Path) -> None:
    bin_dir = installed(tmp_path, "10.6.21", "11.4.2")
    client = MariadbClient(HOST, "s", (), "")
    program = f"{tmp_path}/mariadb-11.4.2/bin/mariadb-backup"
    refuse_other_series(client, program, "11.4.9")
    with pytest.raises(SourceError, match=r"11\.4\.2 is of another series than the server, 10\.6\.1"):
        refuse_other_series(client, program, "10.6.1")
    assert backup_program("s", HOST, bin_dir, "11.4.9") == program
    with pytest.raises(CouldNotRunError, match=r"of MariaDB 10\.5; .* has mariadb-backup 11\.4\.2, 10\.6\.21"):
        backup_program("s", HOST, bin_dir, "10.5.1")


def test_a_drill_boots_the_sources_series(tmp_path: Path) -> None:
    bin_dir = installed(tmp_path, "10.6.21", "11.4.2")
    program, version = server_program(HOST, bin_dir, "10.6", "s")
    assert (program, version) == (f"{tmp_path}/mariadb-10.6.21/bin/mariadbd", "10.6.21")
    own = tmp_path / "mariadb-10.6.21"
    made = [f"{own}/bin/mariadb-install-db", "--no-defaults", f"--basedir={own}"]
    assert install_command(HOST, program) == made
    assert install_command(HOST, "mariadbd") == ["mariadb-install-db", "--no-defaults"]
    with pytest.raises(CouldNotRunError, match=r"s was MariaDB 5\.5; .* has MariaDB server 11\.4\.2, 10\.6\.21"):
        server_program(HOST, bin_dir, "5.5", "s")


def test_a_restricted_account_names_one_directory() -> None:
    with pytest.raises(UsageError, match="one directory only"):
        rules("mariadb", MariadbOptions(bin_dir="/opt/mariadb-{series}/bin"))


@pytest.mark.servers
def test_a_server_in_a_directory_of_its_own_takes_everything_from_there(newer_servers: Path) -> None:
    """By itself it would take messages, character sets and plugins from where its packages put them: another series' place."""
    source = MariadbSource("db", MariadbOptions(bin_dir=str(newer_servers / "bin")), lambda ref: b"")
    directory = Path(tempfile.mkdtemp(prefix="bctl-drill-", dir="/tmp"))
    directory.chmod(0o711)
    instance = source.boot(
        HOST, str(directory / "i").encode(), {"kind": "mariadb", "versions": {"server_series": "11.8"}}
    )
    try:
        asked = "SELECT @@basedir, @@plugin_dir, @@character_sets_dir"
        (found,) = source.query(instance, "mysql", asked)
    finally:
        source.stop(instance)
        shutil.rmtree(directory)
    assert all(one.startswith(str(newer_servers)) for one in found), found
