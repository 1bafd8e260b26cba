"""What a person sees when something is set up wrongly: one clear line, what to do next, and the documented exit code."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from backupctl.cli.main import main
from backupctl.hosts import child
from tests.end_to_end.site import Said, Site


def ask(site: Site, *arguments: str) -> Said:
    """A command that starts no worker, in this process (Python's start-up is not what is tested here): what a fork of it said
    we would not hear."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(child, "may_fork", return_value=False),
        pytest.raises(SystemExit) as exit,
    ):
        main(["--config", str(site.root / "backupctl.yaml"), *arguments])
    return Said(int(exit.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site.create(tmp_path_factory.mktemp("errors"))
    assert ask(site, "init").code == 0
    assert ask(site, "host", "register", "staging").code == 0
    return site


@pytest.fixture
def site(base: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(base.root)
    sources = dict(base.sources)
    yield base
    base.sources = sources
    base.configure()


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A loopback port that nobody listens on: bound, and never listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def unknown_key(site: Site) -> None:
    site.configure(job="retentoin: {keep_daily: 3}\n")


def no_such_repository(site: Site) -> None:
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("repository: main", "repository: elsewhere"))


def no_such_host(site: Site) -> None:
    site.sources["www"] = "{files: {host: web9, paths: [/srv/www]}}"
    site.configure()


def broken_yaml(site: Site) -> None:
    (site.root / "backupctl.yaml").write_text("version: 1\nrepositories: {main: [\n")


def no_config(site: Site) -> None:
    (site.root / "backupctl.yaml").unlink()


def config_is_a_directory(site: Site) -> None:
    no_config(site)
    (site.root / "backupctl.yaml").mkdir()


def not_mounted(site: Site) -> None:
    site.configure(storage="{local: {path: /nonexistent/disk/repository}}")


def empty_place(site: Site) -> None:
    (site.root / "empty").mkdir(exist_ok=True)
    site.configure(storage="{local: {path: empty}}")


def no_key_file(site: Site) -> None:
    path = site.root / "backupctl.yaml"
    path.write_text(path.read_text().replace("repository.key", "lost.key"))


def open_key_file(site: Site) -> None:
    path = site.root / "backupctl.yaml"
    open_to_all = site.root / "open.key"
    open_to_all.write_text((site.root / "repository.key").read_text())
    open_to_all.chmod(0o644)
    path.write_text(path.read_text().replace("repository.key", "open.key"))


def other_password(site: Site) -> None:
    path = site.root / "backupctl.yaml"
    other = site.root / "other.key"
    other.touch(0o600)
    other.write_text("another password\n")
    path.write_text(path.read_text().replace("repository.key", "other.key"))


def nothing(site: Site) -> None:
    return


CASES: list[tuple[str, Callable[[Site], None], list[str], int, str]] = [
    ("unknown key", unknown_key, ["config", "validate"], 13, "site.yaml:"),
    ("unknown key, any command", unknown_key, ["snapshots"], 13, "retentoin"),
    ("unknown repository", no_such_repository, ["snapshots"], 13, "elsewhere"),
    ("unknown host of a source", no_such_host, ["run"], 13, "web9"),
    ("broken YAML", broken_yaml, ["status"], 13, "backupctl.yaml:"),
    ("no configuration", no_config, ["status"], 13, "backupctl.yaml"),
    ("configuration is a directory", config_is_a_directory, ["status"], 13, "backupctl.yaml"),
    ("unknown job", nothing, ["run", "nosuch"], 10, "known jobs: site"),
    ("unknown job to restore", nothing, ["restore", "nosuch", "--into", "x"], 10, "known jobs: site"),
    ("unknown snapshot", nothing, ["restore", "site", "--at", "deadbeef", "--into", "x"], 10, "deadbeef"),
    ("no snapshot yet", nothing, ["restore", "site", "--into", "x"], 10, "site"),
    ("unknown drill", nothing, ["drill", "run", "site/nosuch"], 10, "site/full"),
    ("unknown staging host", nothing, ["drill", "cleanup", "web9"], 10, "staging"),
    ("unknown repository to unlock", nothing, ["storage", "unlock", "nosuch"], 10, "main"),
    ("unknown command", nothing, ["bakcup"], 2, "backup"),
    ("unknown option", nothing, ["run", "--fast"], 2, "--fast"),
    ("missing option", nothing, ["restore", "site"], 2, "--into"),
    ("wrong quarter", nothing, ["report", "recovery", "--quarter", "2026Q5"], 2, "2026Q5"),
    ("wrong format", nothing, ["report", "recovery", "--format", "docx"], 2, "docx"),
    ("repository not mounted", not_mounted, ["snapshots"], 14, "/nonexistent/disk/repository"),
    ("no repository there", empty_place, ["snapshots"], 10, "empty"),
    ("key file missing", no_key_file, ["snapshots"], 13, "lost.key"),
    ("key file open to all", open_key_file, ["snapshots"], 13, "open.key"),
    ("another password", other_password, ["snapshots"], 12, "none of the repository's keys (1)"),
]


def assert_clear(said: Said, code: int, words: str) -> None:
    assert said.code == code, said.text
    assert "Traceback" not in said.text
    assert len([line for line in said.err.splitlines() if line.startswith("error: ")]) == 1, said.err
    assert words in said.err, said.err
    assert "next: " in said.err or code == 2, said.err
    assert said.out == ""


@pytest.mark.parametrize(("what", "spoil", "arguments", "code", "words"), CASES, ids=[case[0] for case in CASES])
def test_one_clear_line(
    site: Site, what: str, spoil: Callable[[Site], None], arguments: list[str], code: int, words: str
) -> None:
    spoil(site)
    try:
        assert_clear(ask(site, *arguments), code, words)
        machine = ask(site, *arguments, "--json")
        assert (machine.code, machine.err) == (code, "")
        assert [line["type"] for line in machine.lines] == ["error", "exit"]
        assert machine.lines[-1]["code"] == code
        assert words in machine.lines[0]["message"]
    finally:
        config = site.root / "backupctl.yaml"
        if config.is_dir():
            config.rmdir()


def test_unreachable_s3(site: Site, closed_port: int) -> None:
    credentials = site.root / "s3.txt"
    credentials.touch(0o600)
    credentials.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    site.configure(
        storage=f"{{s3: {{bucket: backups, endpoint: 'http://127.0.0.1:{closed_port}', credentials: {{file: s3.txt}}}}}}"
    )
    assert_clear(ask(site, "snapshots"), 14, f"127.0.0.1:{closed_port}")


def test_target_is_not_empty(base: Site) -> None:
    base.run("run")
    (base.root / "full").mkdir()
    (base.root / "full" / "mine.txt").write_text("keep me\n")
    assert_clear(ask(base, "restore", "site", "--into", str(base.root / "full")), 2, "is not empty")
    assert [one.name for one in (base.root / "full").iterdir()] == ["mine.txt"]
    assert_clear(ask(base, "restore", "site", "--into", str(base.root / "full" / "mine.txt")), 2, "is no directory")
    assert_clear(ask(base, "restore", "site", "--only", "no/such", "--into", str(base.root / "x")), 10, "no/such")
    assert_clear(ask(base, "restore", "site", "--into", "web9:/srv"), 10, "web9")
    assert_clear(ask(base, "restore", "site", "--only", "db:nosuch", "--into", str(base.root / "x")), 10, "db/shop.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_configuration(site: Site) -> None:
    config = site.root / "backupctl.yaml"
    config.chmod(0)
    try:
        assert_clear(ask(site, "status"), 13, "backupctl.yaml")
    finally:
        config.chmod(0o600)


@pytest.mark.parametrize(
    ("source", "code"),
    [("{files: {paths: [../gone]}}", 3), ("{sqlite: {path: ../gone.db}}", 1)],
    ids=["files", "sqlite"],
)
def test_a_run_that_cannot_read(tmp_path: Path, source: str, code: int) -> None:
    """Real processes: what the worker says reaches the person who started the run, once. A missing path leaves a snapshot
    that says so; a run of which nothing could be read leaves none."""
    site = Site(tmp_path, {"data": source})
    (tmp_path / "jobs").mkdir()
    site.configure()
    site.prepare()
    said = site.run("run", "--json", expect=code)
    assert "gone" in said.out
    assert [line["type"] for line in said.lines].count("exit") == 1
    assert (said.lines[-1]["type"], said.lines[-1]["code"]) == ("exit", code)
    assert len(site.objects("snapshots")) == (1 if code == 3 else 0)
