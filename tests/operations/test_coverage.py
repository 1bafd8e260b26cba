"""What is on the hosts and in no job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.errors import ConfigError
from backupctl.operations import coverage
from backupctl.operations.context import Context
from backupctl.operations.coverage import Coverage, look_around
from backupctl.sources.discovery import Reached, RunningServer
from tests.end_to_end.site import Site
from tests.operations.conftest import NOW, site
from tests.servers.databases import PostgresServer
from tests.servers.plugin_sshd import ssh_options
from tests.servers.sshd import Sshd

__all__ = ["site"]

Look = Callable[..., Coverage]


@pytest.fixture
def look(site: Site, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Around a configuration whose `coverage:` and further text are given. No server runs unless some are given."""

    def around(more: str = "", *, servers: tuple[RunningServer, ...] = (), job: str = "") -> Coverage:
        monkeypatch.setattr(coverage, "running_servers", lambda host: list(servers))
        site.configure(main=more, job=job)
        with Context.open(load(site.root / "backupctl.yaml"), clock=FakeClock(NOW)) as context:
            return look_around(context)

    return around


def names(found: Coverage) -> list[str]:
    return [one.name for one in found.unprotected]


def test_a_directory_in_no_job_is_found_and_what_a_job_takes_is_not(site: Site, look: Look) -> None:
    for name in ("forgotten", "empty", "input/other", "input/www/deeper"):
        (site.root / name).mkdir(parents=True)
    (site.root / "forgotten" / "thesis.txt").write_text("x")
    (site.root / "input" / "other" / "file").write_text("x")
    (site.root / "loose.txt").write_text("x")
    found = look(f"coverage: {{directories: ['{site.root}/*']}}\n")
    # of `input` a job takes a part: the rest is told; files beside directories are no directories
    assert names(found) == [f"{site.root}/forgotten", f"{site.root}/input/other", f"{site.root}/jobs"]
    assert found.hosts == ["local"]


def test_what_is_left_out_on_purpose_is_counted_and_not_told(site: Site, look: Look) -> None:
    (site.root / "forgotten").mkdir()
    (site.root / "forgotten" / "x").touch()
    accepted = (
        f"coverage: {{directories: ['{site.root}/*'], accepted: ['local:{site.root}/[fj]*', 'local:/nowhere']}}\n"
    )
    found = look(accepted)
    assert (names(found), found.accepted) == ([], 2)


def test_the_repository_and_the_scratch_directory_need_no_backup(site: Site, look: Look) -> None:
    for name in ("repository", "staging"):
        (site.root / name).mkdir()
        (site.root / name / "x").touch()
    assert names(look(f"coverage: {{directories: ['{site.root}/[rs]*']}}\n")) == []


def test_a_standby_holds_what_is_backed_up_elsewhere(site: Site, look: Look) -> None:
    (site.root / "warm").mkdir()
    (site.root / "warm" / "x").touch()
    own = RunningServer("postgresql", "postgres", "7", "postgres", f"{site.root}/warm/servers/site/db/data", "5432")
    other = RunningServer("postgresql", "postgres", "8", "postgres", f"{site.root}/warm too", "5433")
    standby = "standby: {spare: {host: local, jobs: [site], directory: warm}}\n"
    found = look(f"{standby}coverage: {{directories: ['{site.root}/warm']}}\n", servers=(own, other))
    assert [one.message.partition("pid ")[2][:1] for one in found.unprotected] == ["8"]


def test_a_host_that_no_job_names_is_unprotected_as_a_whole(site: Site) -> None:
    site.configure(main="coverage: {directories: [], accepted: ['gone:host']}\n")
    main = site.root / "backupctl.yaml"
    far = "{ssh: {address: old.internal, user: backup, key: {file: k}}}"
    main.write_text(main.read_text().replace("hosts:\n", f"hosts:\n  old: {far}\n  gone: {far}\n"))
    with Context.open(load(main), clock=FakeClock(NOW)) as context:
        found = look_around(context)
    assert [one.key for one in found.unprotected if one.kind == "host"] == ["old:host"]
    assert found.accepted == 1


@pytest.mark.parametrize("text", ["srv/*", "/srv/../*", "/"])
def test_a_pattern_that_is_no_path_is_refused(look: Look, text: str) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        look(f"coverage: {{directories: ['{text}']}}\n")


def test_a_server_that_no_job_reaches_is_told(look: Look) -> None:
    server = RunningServer("postgresql", "postgres", "7", "postgres", "/srv/pg", "5432")
    found = look("coverage: {directories: []}\n", servers=(server,))
    assert [(one.kind, one.key) for one in found.unprotected] == [("postgresql", "local:postgresql:server")]
    assert "postgres (pid 7, user postgres, /srv/pg)" in found.unprotected[0].message


def test_a_server_that_tells_nothing_is_taken_for_one_that_is_reached() -> None:
    mute = RunningServer("postgresql", "postgres", "7", "postgres", "/etc/unreadable", "")
    reached = [Reached("postgresql", "5432")]
    assert coverage._left("postgresql", [mute], reached) == []
    other = RunningServer("postgresql", "postgres", "9", "postgres", "", "")
    assert coverage._left("postgresql", [mute, other], reached) == [other]
    assert coverage._left("postgresql", [mute], []) == [mute]


@pytest.mark.servers
def test_a_forgotten_database_on_a_host_over_ssh(
    site: Site, sshd: Sshd, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    postgres_server.sql("CREATE DATABASE taken;\n CREATE DATABASE overlooked;")
    options = ssh_options(sshd)
    key = tmp_path / "login.key"
    key.write_bytes(sshd.login_key.read_bytes())
    key.chmod(0o600)
    ssh = f"address: {options.address}, port: {options.port}, user: {options.user}, key: {{file: {key}}}"
    web = f"  web1: {{ssh: {{{ssh}, host_key: '{options.host_key}'}}}}\n"
    site.sources = {"db": f"{{postgresql: {{host: web1, conninfo: '{postgres_server.conninfo}', databases: [taken]}}}}"}
    site.configure(main="coverage: {directories: []}\n")
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("hosts:\n", f"hosts:\n{web}"))
    with Context.open(load(main), clock=FakeClock(NOW)) as context:
        found = look_around(context)
    assert (found.hosts, found.unknown) == (["web1"], [])
    keys = [one.key for one in found.unprotected]
    assert "web1:postgresql:overlooked" in keys
    assert "web1:postgresql:taken" not in keys
    mine = str(postgres_server.directory)
    assert not any(mine in one.message for one in found.unprotected if one.name == "server")
