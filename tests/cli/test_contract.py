"""The command line is a contract: every command is there, explains itself, and takes the common options anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from backupctl.cli.main import ALIASES, cli

PROGRAM = [sys.executable, "-P", "-m", "backupctl"]
CONTRACT = """init run status snapshots ls find restore check prune serve completion
drill run|drill plan|drill list|drill show|drill abort|drill cleanup|report recovery|catalog rebuild|host register|job check
schedule preview|schedule explain|schedule pause|schedule resume|notify test|config validate|config show|config reload
config schema|runs|cancel|hold place|hold release|audit verify|standby status|standby refresh|standby promote|standby stop"""
PATHS = [
    path.strip().split()
    for line in CONTRACT.splitlines()
    for path in (line.split("|") if "|" in line else line.split())
]
OPTIONS = {"--config", "--json", "--quiet", "--verbose"}


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


EVERY = dict(commands(cli))


def backupctl(*arguments: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_of_the_contract_exists(path: list[str]) -> None:
    assert tuple(path) in EVERY


def test_every_command_explains_itself_and_takes_the_common_options() -> None:
    for path, command in EVERY.items():
        assert command.help, path
        assert command.get_short_help_str(200).endswith((".", "?")), path
        names = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
        assert names >= OPTIONS, path
        for one in command.params:
            assert not isinstance(one, click.Option) or one.help or one.name in ("limit", "days"), (path, one.name)


def test_other_names_lead_to_the_same_commands() -> None:
    context = click.Context(cli)
    assert isinstance(cli, click.Group)
    for other, name in ALIASES.items():
        assert cli.get_command(context, other) is cli.get_command(context, name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--config", "none.yaml", "drill", "list"],
        ["drill", "--json", "--config", "none.yaml", "list"],
        ["drill", "list", "--config", "none.yaml", "--json"],
    ],
    ids=["before", "between", "after"],
)
def test_common_options_stand_anywhere(arguments: list[str], tmp_path: Path) -> None:
    said = backupctl(*arguments, directory=tmp_path)
    error, end = [json.loads(line) for line in said.stdout.splitlines()]
    assert said.returncode == 13
    assert error["message"] == "the configuration none.yaml does not exist"
    assert "backupctl init" in error["next_step"]
    assert (end["type"], end["code"]) == ("exit", 13)
    assert said.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stauts"], ["did you mean 'status'?", "next: backupctl --help"]),
        (["forgt"], ["did you mean 'forget'?"]),
        (["drill", "rnu"], ["did you mean 'run'?", "next: backupctl drill --help"]),
        (["zzz"], ["backupctl has no command 'zzz'\n"]),
        (["restore"], ["Missing option '--into'", "next: backupctl restore --help"]),
        (["schedule", "preview", "--days", "0"], ["'--days'"]),
        (["schedule", "pause", "--reason", "x", "--until", "1d"], ["name one JOB, or --all"]),
        (["schedule", "pause", "site", "--until", "1d"], ["'--reason'"]),
        (["schedule", "pause", "site", "--reason", "x"], ["'--until'"]),
        (["run", "--due", "site"], ["--due looks at every schedule"]),
        (["completion", "tcsh"], ["'tcsh' is not one of"]),
    ],
)
def test_a_mistyped_line_is_one_error_and_the_way_on(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    said = backupctl(*arguments, directory=tmp_path)
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.startswith("error: ")
    assert said.stderr.count("\n") == 2, "what is wrong, and what to type next"
    for word in words:
        assert word in said.stderr


def test_without_a_command_the_help_is_shown_as_help(tmp_path: Path) -> None:
    said = backupctl(directory=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith("Usage: backupctl")
    assert said.stderr.count("Usage:") == 1


def test_help_completion_and_version_import_nothing_heavy() -> None:
    """Start-up is what a person feels at every key; these are what would cost more than 150 ms of it."""
    program = (
        "import sys; from backupctl.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'sqlalchemy', 'boto3', 'paramiko', 'fastapi', 'ruamel', 'cryptography', 'rich'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    for arguments in (["--help"], ["--version"], ["completion", "bash"], ["drill", "--help"], ["restore", "--help"]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{arguments} imports {done.stderr}"


def test_a_full_disk_behind_our_output_is_an_error_without_traceback(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "config", "schema"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"


def test_a_locale_that_cannot_show_a_name_escapes_it(tmp_path: Path) -> None:
    said = backupctl("--config", "網站.yaml", "status", directory=tmp_path, PYTHONIOENCODING="ascii")
    assert said.returncode == 13
    assert "\\u7db2\\u7ad9.yaml does not exist" in said.stderr
