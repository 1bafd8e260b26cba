"""A command that executes a run is two processes: one that waits and holds nothing, one that has only what its run needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

HEAVY = {"pydantic", "ruamel", "sqlalchemy", "alembic", "asyncio", "cryptography", "boto3", "paramiko", "fastapi"}
CONFIG = """\
version: 1
repositories: {offsite: {storage: {local: {path: repository}}, password: {file: offsite.key}}}
jobs:
  website:
    sources: {data: {files: {paths: [DATA]}}}
    repository: offsite
    objectives: {rpo: 24h, rto: 2h}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched")
    (root / "data").mkdir()
    (root / "data" / "file").write_text("content")
    (root / "backupctl.yaml").write_text(CONFIG.replace("DATA", str(root / "data")))
    assert program(root, "", "init").returncode == 0
    assert program(root, "", "run").returncode == 0
    return root


def program(root: Path, before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`backupctl ARGUMENTS`, in a process that has executed `before`."""
    source = (
        f"import os, signal, sys\n{textwrap.dedent(before)}\nfrom backupctl.cli.main import main\nmain(sys.argv[1:])\n"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", source, *arguments], cwd=root, capture_output=True, text=True, timeout=120
    )


def modules(root: Path, *arguments: str) -> dict[str, set[str]]:
    """What the process that was started, and the one that it forked for the run, have imported in the end."""
    tell = """
        def told(who):
            with open(f"modules-{who}", "w") as file:
                file.write("\\n".join(sys.modules))
        import atexit
        from backupctl.hosts import child
        inside = child._run
        def seen(main, arguments):
            try:
                return inside(main, arguments)
            finally:
                told("child")
        child._run = seen
        atexit.register(told, "first")
    """
    for old in root.glob("modules-*"):
        old.unlink()
    done = program(root, tell, *arguments)
    assert done.returncode in (0, 6), done.stderr
    return {path.name.removeprefix("modules-"): set(path.read_text().split()) for path in root.glob("modules-*")}


def newest_run(root: Path) -> dict[str, Any]:
    lines = map(json.loads, program(root, "", "runs", "--json").stdout.splitlines())
    return max((line for line in lines if line["type"] == "run"), key=lambda line: line["scheduled"])


@pytest.mark.parametrize("command", ["run website", "run", "check", "check --read-data"])
def test_the_process_that_waits_for_a_run_has_imported_nothing(site: Path, command: str) -> None:
    found = modules(site, *command.split(), "--quiet")
    assert not HEAVY & found["first"]
    assert {"sqlalchemy", "pydantic"} < found["child"]  # else this looked at the wrong process


@pytest.mark.parametrize(
    ("command", "without"),
    [
        (
            "run website",
            (
                "alembic boto3 paramiko fastapi jinja2 typst smtplib backupctl.operations.copy backupctl.operations.check "
                "backupctl.config.channels backupctl.config.drilling backupctl.config.fleet backupctl.config.standby"
            ),
        ),
        ("check", "alembic boto3 paramiko fastapi jinja2 typst backupctl.operations.backup"),
        ("status", "alembic boto3 paramiko fastapi jinja2 typst backupctl.drills.run backupctl.operations.standby"),
        ("restore --into restored --overwrite", "alembic boto3 paramiko fastapi jinja2 backupctl.operations.backup"),
        ("snapshots", "alembic boto3 paramiko fastapi jinja2 sqlalchemy backupctl.catalog.catalog"),
    ],
)
def test_a_command_imports_nothing_it_has_no_use_for(site: Path, command: str, without: str) -> None:
    found = modules(site, *command.split(), "--quiet")
    assert not set(without.split()) & set.union(*found.values())


@pytest.mark.parametrize(("limit", "wanted"), [("", "True"), ("concurrency: {memory: 4GiB}\n", "False")])
def test_workers_of_a_check_hold_nothing_of_the_configuration(site: Path, limit: str, wanted: str) -> None:
    """They are forked before it is read, and sent away before the run where each process has a limit."""
    tell = """
        from backupctl.hosts import workers
        os.environ["BACKUPCTL_WORKERS"] = "1"
        def telling(what):
            def told(self):
                with open("told", "a") as file:
                    file.write(f"{what.__name__} {'pydantic' in sys.modules} {'sqlalchemy' in sys.modules}\\n")
                what(self)
            return told
        for name in ("__init__", "dismiss"):
            setattr(workers._Forked, name, telling(getattr(workers._Forked, name)))
    """
    configuration = (site / "backupctl.yaml").read_text()
    (site / "backupctl.yaml").write_text(configuration + limit)
    try:
        assert program(site, tell, "check", "--read-data").returncode == 0
    finally:
        (site / "backupctl.yaml").write_text(configuration)
    told = (site / "told").read_text().splitlines()
    (site / "told").unlink()
    assert told == ["__init__ False False", f"dismiss True {wanted}"]


def test_a_run_writes_into_the_catalog_five_times(site: Path) -> None:
    """Queued, claimed, its snapshot, its end, the audit trail. Each is a transaction with its syncs; SQLite counts them in
    bytes 24 to 27 of the file."""

    def transactions() -> int:
        return int.from_bytes((site / "catalog.db").read_bytes()[24:28], "big")

    before = transactions()
    assert program(site, "", "run", "--quiet").returncode == 0
    assert transactions() - before == 5


@pytest.mark.parametrize(
    ("number", "state", "code"), [(signal.SIGKILL, "failed", 1), (signal.SIGTERM, "cancelled", 130)]
)
def test_a_run_whose_process_is_killed_is_closed_by_the_one_that_waits(
    site: Path, number: signal.Signals, state: str, code: int
) -> None:
    kill = f"""
        from backupctl.cli import watching
        inside = watching._inside
        def killed(context, run):
            if {number:d} == signal.SIGTERM:  # as if it came before anybody listened
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), {number:d})
        def broken(*given):
            import backupctl.operations.backup
            backupctl.operations.backup.run_backup = killed
            inside(*given)
        watching._inside = broken
    """
    done = program(site, kill, "run", "--json")
    assert done.returncode == code
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line for line in lines if line["type"] == "exit"] == [lines[-1]] and lines[-1]["code"] == code
    assert "its process ended by signal" in done.stderr
    assert newest_run(site)["state"] == state
    assert program(site, "", "run").returncode == 0  # whatever the other one had left


def test_what_goes_wrong_before_a_run_is_said_once(site: Path) -> None:
    done = program(site, "", "run", "nothing", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["error", "exit"] and done.returncode == lines[-1]["code"] == 10


def test_a_repository_that_cannot_be_opened_fails_the_run_that_asked_for_it(site: Path) -> None:
    key = (site / "offsite.key").read_text()
    (site / "offsite.key").write_text("another\n")
    try:
        done = program(site, "", "run")
    finally:
        (site / "offsite.key").write_text(key)
    assert done.returncode == 12 and done.stderr.count("opens none of the repository's keys") == 1
    assert (newest_run(site)["state"], newest_run(site)["exit_code"]) == ("failed", 12)


def test_a_command_that_was_interrupted_leaves_no_lock(site: Path) -> None:
    """While the repository is locked, and the catalog still being opened."""
    interrupt = """
        import backupctl.config.resources as resources
        from backupctl.operations.context import Context
        def interrupted(self):
            while not os.listdir("repository/locks"):
                pass
            os.kill(os.getpid(), signal.SIGINT)
        Context.catalog = property(interrupted)
    """
    done = program(site, interrupt, "run")
    assert done.returncode == 130
    assert os.listdir(site / "repository" / "locks") == []
