"""The documentation says what the program does: generated pages, commands, configuration, exit codes, links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from backupctl import errors
from backupctl.cli.main import cli
from backupctl.config.models import Job, MainFile
from tests.docs.pages import DOCS, PAGES, PROJECT, Block, anchors, blocks, links, typed

CODES = {0} | {
    one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.UserError)
}
CONSOLE = [block for page in PAGES for block in blocks(page, "console")]
YAML_BLOCKS = [block for page in PAGES for block in blocks(page, "yaml")]


def test_generated_pages_are_current() -> None:
    argv = [sys.executable, str(PROJECT / "tools" / "reference.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=PROJECT, env={"PYTHONPATH": str(PROJECT)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_is_not_current_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import reference

    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    (tmp_path / "cli.md").write_text(reference.cli_page().replace("--due", "--overdue"))
    (tmp_path / "configuration.md").write_text(reference.configuration_page())
    (difference,) = reference.outdated()
    assert "--overdue" in difference


def our_commands(line: str) -> list[list[str]]:
    """The argument lists of every `backupctl …` in one shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word and set(word) <= set("|&;<>"):
            commands.append([] if word[0] in "|&;" else ["redirected to"])
        else:
            commands[-1].append(word)
    found = []
    for words in commands:
        places = [place for place, word in enumerate(words) if Path(word).name == "backupctl"]
        if words and words[0] in ("sudo", "setpriv"):  # their options name the user backupctl: the program comes last
            places = places[-1:]
        elif places and not all("=" in word for word in words[: places[0]]):
            places = []  # an argument of something else
        if places:
            found.append(words[places[0] + 1 :])
    return found


def parse(arguments: list[str]) -> None:
    """Raises click.ClickException when the program would refuse these arguments."""
    command: click.Command = cli
    context: click.Context | None = None
    while True:
        name = str(command.name)
        context = command.make_context(name, list(arguments), parent=context, obj={})
        if not isinstance(command, click.Group):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        _, found, arguments = command.resolve_command(context, rest)
        assert found is not None
        command = found


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_commands_in_the_documentation_are_accepted(block: Block) -> None:
    for line in typed(block):
        for arguments in our_commands(line):
            try:
                parse(arguments)
            except click.exceptions.Exit:
                continue  # --help, --version
            except click.ClickException as error:
                if "does not exist" in error.format_message():
                    continue  # a path of the reader's machine
                pytest.fail(f"{block}: {line}: {error.format_message()}")


def test_the_parser_of_this_test_refuses_what_the_program_refuses() -> None:
    assert our_commands("sudo -u backupctl backupctl run --due | tee log") == [["run", "--due"]]
    assert our_commands("chown -R backupctl /srv") == []
    for wrong in (["rnu"], ["run", "--dew"], ["hold", "place", "abc"], ["hold", "plaice"], ["report", "recovery", "x"]):
        with pytest.raises(click.ClickException):
            parse(wrong)
    assert sum(len(our_commands(line)) for block in CONSOLE for line in typed(block)) > 50


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_configuration_in_the_documentation_is_accepted(block: Block) -> None:
    """A main file, a job, or a part of one of them."""
    value = YAML(typ="safe", pure=True).load(block.text)
    if "job" in value:
        Job.model_validate(value)
    elif set(value) <= set(MainFile.model_fields) and not isinstance(value.get("notify"), list):
        MainFile.model_validate({"version": 1, **value})
    else:
        least = {"job": "x", "sources": {"s": {"files": {"paths": ["/srv"]}}}, "repository": "r"}
        Job.model_validate({**least, "objectives": {"rpo": "24h", "rto": "2h"}, **value})


def test_exit_codes_are_those_of_the_program() -> None:
    table = re.findall(r"^\| (\d+) \|", (DOCS / "reference" / "exit-codes.md").read_text(), re.M)
    assert sorted(map(int, table)) == sorted(CODES)
    steps = re.findall(r"^## (\d+):", (DOCS / "how-to" / "troubleshooting.md").read_text(), re.M)
    assert set(map(int, steps)) == CODES - {0}
    (line,) = re.findall(r"^0 ok · .+(?:\n.+)*", (PROJECT / "README.md").read_text(), re.M)
    assert {int(part.split()[0]) for part in line.replace("\n", " ").split("·") if part.strip()} == CODES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_exit_codes_that_are_mentioned_exist(page: Path) -> None:
    for code in re.findall(r"exit codes? (\d+)", page.read_text(), re.I):
        assert int(code) in CODES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{page.name}: {target}: no such heading"


def test_every_page_is_on_the_map() -> None:
    listed = "\n".join(block.text for block in blocks(DOCS / "index.md", "{toctree}"))
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")} - {"index"}
    assert {line for line in listed.splitlines() if line and not line.startswith(":")} == pages
    linked = {str(Path(target).with_suffix("")) for target in links(DOCS / "index.md")}
    assert pages <= linked, "the map has a sentence for every page"
