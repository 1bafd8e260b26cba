"""Man pages, made from the commands themselves: what `--help` says, in roff. See man-pages(7) and groff_man(7)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from backupctl import __version__
from backupctl.cli.main import ALIASES, COMMANDS, cli

SHORT = "nightly backups of files and databases, and the proof that they can be restored"
EXITS = (
    ("0", "all well"),
    ("1", "failed"),
    ("2", "the command line is wrong"),
    ("3", "finished incomplete, or with warnings"),
    ("4", "a check or drill says that the backup is bad"),
    ("5", "a check or drill could not run"),
    ("6", "stale, or an objective missed"),
    ("10", "no such repository, snapshot, path or job"),
    ("11", "locked by somebody else"),
    ("12", "wrong key or login"),
    ("13", "the configuration is invalid"),
    ("14", "a host or store could not be reached"),
    ("15", "a second person has to agree first"),
    ("75", "skipped on purpose"),
    ("130", "interrupted"),
)
FILES = (
    (
        "/etc/backupctl/backupctl.yaml",
        "the main file, unless --config, $BACKUPCTL_CONFIG or ./backupctl.yaml names another",
    ),
    ("/var/lib/backupctl/catalog.db", "the catalog, where the shipped units put it"),
)


def pages() -> dict[str, str]:
    """File name → roff, of the program and of every verb; sub-verbs stand in the page of their verb."""
    context = click.Context(cli, info_name="backupctl")
    found = {"backupctl.1": _page(("backupctl",), SHORT, _main(context))}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None:
            path = ("backupctl", name)
            found[f"backupctl-{name}.1"] = _page(path, _short(name), _verb(path, command))
    return found


def _short(name: str) -> str:
    return COMMANDS[name][1].rstrip(".")


def _page(path: tuple[str, ...], short: str, body: Iterator[str]) -> str:
    title = "-".join(path)
    head = [f'.TH {_quoted(title.upper())} 1 "" {_quoted(f"backupctl {__version__}")}', ".nh", ".ad l", ".SH NAME"]
    return "\n".join([*head, f"{_text(title)} \\- {_text(short)}", *body]) + "\n"


def _main(context: click.Context) -> Iterator[str]:
    yield from _synopsis(("backupctl",), cli)
    yield ".SH DESCRIPTION"
    yield from _paragraphs(cli.help)
    yield ".SH COMMANDS"
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None:
            yield from (".TP", f".BR backupctl\\-{_text(name)} (1)", _text(_short(name)))
    yield f"Other names: {_text(', '.join(f'{other} is {name}' for other, name in ALIASES.items()))}."
    yield from _options(cli, ".SH OPTIONS")
    yield ".SH EXIT STATUS"
    for code, meaning in EXITS:
        yield from (".TP", f".B {code}", _text(meaning))
    yield ".SH FILES"
    for file, meaning in FILES:
        yield from (".TP", f".I {_text(file)}", _text(meaning))


def _verb(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    yield from _synopsis(path, command)
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help)
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        context = click.Context(command, info_name=" ".join(path))
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield f".SS {_quoted(' '.join((*path, name)))}"
                yield from _usage((*path, name), found)
                yield from _paragraphs(found.help)
                yield from _options(found, "", own=True)
    yield from _options(command, ".SH OPTIONS")
    yield from (".SH SEE ALSO", ".BR backupctl (1)")


def _synopsis(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    yield from _usage(path, command)


def _usage(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(path))
    yield f".B {_text(' '.join(path))}"
    yield _text(" ".join(command.collect_usage_pieces(context)))


def _options(command: click.Command, heading: str, *, own: bool = False) -> Iterator[str]:
    """`own`: without those that every command takes."""
    context = click.Context(command)
    common = {"config", "json", "quiet", "verbose", "help"}
    records = [
        one.get_help_record(context)
        for one in command.get_params(context)
        if isinstance(one, click.Option) and not (own and one.name in common)
    ]
    shown = [record for record in records if record is not None]
    if shown and heading:
        yield heading
    for names, meaning in shown:
        yield from (".TP", f".B {_text(names)}", _text(meaning) or "\\&")


def _paragraphs(text: str | None) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text or "").split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", *(_text(line) for line in paragraph[2:].splitlines()), ".fi")
        else:
            yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """Nothing of it is taken for roff; a hyphen is one that can be copied; what stands in backticks is bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return f"\\&{text}" if text[:1] in (".", "'") else text


def _quoted(text: str) -> str:
    return '"' + _text(text).replace('"', "\\(dq") + '"'
