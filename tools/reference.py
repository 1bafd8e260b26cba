"""Writes docs/reference/cli.md from the click commands and docs/reference/configuration.md from the option models.

python tools/reference.py           write both
python tools/reference.py --check   say which is not current; exit code 1 then
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from backupctl.cli.main import ALIASES, cli
from backupctl.config.schema import Kind, schema

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- Made by tools/reference.py; do not edit. -->"
COMMON = ("config", "json", "quiet", "verbose", "help")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below `command` that is shown to people, groups before their members."""
    if path:
        yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from commands(found, (*path, name))


def cli_page() -> str:
    lines = [MADE, "", "# Commands", ""]
    lines += ["Every command also takes these options, wherever on the line they stand:", ""]
    lines += ["| option | |", "|---|---|", *(_option_row(one) for one in cli.params if one.name in COMMON), ""]
    lines += ["Other names: " + ", ".join(f"`{name}` is `{real}`" for name, real in ALIASES.items()) + ".", ""]
    for path, command in commands(cli):
        context = click.Context(command, info_name=" ".join(("backupctl", *path)))
        lines += [f"{'#' * (len(path) + 1)} {' '.join(path)}", ""]
        usage = command.collect_usage_pieces(context)
        if not isinstance(command, click.Group):
            lines += ["```text", " ".join((context.info_name or "", *usage)), "```", ""]
        lines += [_help(command), ""]
        own = [one for one in command.params if isinstance(one, click.Option) and one.name not in COMMON]
        if own:
            lines += ["| option | |", "|---|---|", *map(_option_row, own), ""]
    return "\n".join(lines).rstrip() + "\n"


def _help(command: click.Command) -> str:
    """The docstring as Markdown: paragraphs that click is told not to wrap are shown as they stand."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            parts.append(f"```text\n{paragraph[2:]}\n```")
        else:
            parts.append(_escaped(paragraph))
    return "\n\n".join(parts)


def _option_row(option: click.Parameter) -> str:
    assert isinstance(option, click.Option)
    context = click.Context(click.Command("x"))
    names = ", ".join(
        f"`{name}`" for name in [*sorted(option.opts, key=lambda name: -len(name)), *option.secondary_opts]
    )
    record = option.get_help_record(context)
    metavar = "" if option.is_flag else f" {_escaped(option.make_metavar(context))}"
    return f"| {names}{metavar} | {_escaped(record[1] if record else '')} |"


def _escaped(text: str) -> str:
    """Plain text for a table or a paragraph: what looks like Markdown or HTML is shown, not obeyed."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([<>|*\[\]])", r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "".join(plain)


def configuration_page() -> str:
    lines = [MADE, "", "# Configuration", ""]
    lines += [
        "Three kinds of file: the main file, one for each job in its `jobs_dir`, one for each host in its `hosts_dir`. An",
        "unknown key is an error. Relative paths start at the directory of the file that names them.",
        "`backupctl config schema main` (or `job`, `host`) prints the same as JSON Schema, for completion and checks in an editor.",
        "",
    ]
    kinds: tuple[tuple[Kind, str], ...] = (("main", "The main file"), ("job", "A job file"), ("host", "A host file"))
    definitions: dict[str, Any] = {}
    for kind, title in kinds:
        described = schema(kind)
        definitions |= described.get("$defs", {})
        lines += [f"## {title}", "", *_table(described), ""]
    sources = definitions.pop("SourceSettings")["properties"]
    lines += ["## Sources", "", "A source is written as `NAME: {KIND: {options}}`. The kinds:", ""]
    shown = set()
    for kind, node in sources.items():
        name = node["$ref"].rpartition("/")[2] if "$ref" in node else ""
        shown.add(name)
        found = definitions.get(name, node)
        lines += [f"### {kind}", "", *_described(found), *_table(found), ""]
    lines += ["## Parts", ""]
    for name in sorted(set(definitions) - shown - {"NamedJob", "Job", "MainFile"}):
        if definitions[name].get("properties"):
            lines += [f"### {_title(name)}", "", *_described(definitions[name]), *_table(definitions[name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _title(name: str) -> str:
    """Of a model; pydantic puts the module before names that stand in two of them."""
    *module, short = name.split("__")
    return f"{short} of {module[1]}" if module else short


def _described(node: dict[str, Any]) -> list[str]:
    return [_escaped(" ".join(node["description"].split())), ""] if node.get("description") else []


def _table(node: dict[str, Any]) -> list[str]:
    if not node.get("properties"):
        return ["No options: `{}`."]
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key, value in node["properties"].items():
        needed = "required" if key in node.get("required", ()) else _default(value)
        rows.append(f"| `{key}` | {_type(value)} | {needed} | {_escaped(value.get('description', ''))} |")
    return rows


def _default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, dict):
        return "its own defaults"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text or chr(34) * 2}`"


def _type(node: dict[str, Any]) -> str:
    if "$ref" in node:
        return _link(node["$ref"])
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(one) for one in options if one.get("type") != "null"))
    if "enum" in node:
        return " or ".join(f"`{one}`" for one in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if node.get("type") == "array":
        return f"list of {_type(node.get('items', {}))}"
    if node.get("type") == "object":
        inside = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
        return f"NAME: {_type(inside)}" if isinstance(inside, dict) else "mapping"
    return _scalar(node)


def _scalar(node: dict[str, Any]) -> str:
    if "24h" in node.get("examples", ()):
        return "duration, such as `24h`"
    bounds = [f"{word} {node[key]}" for word, key in (("≥", "minimum"), ("≤", "maximum")) if key in node]
    words = {"string": "text", "integer": "number", "number": "number", "boolean": "`true` or `false`"}
    return " ".join([words.get(node.get("type", ""), "any"), *bounds])


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2]
    words = {"SourceSettings": "[a source](#sources)", "NamedJob": "[a job](#a-job-file) without `job`"}
    words |= {"Job": "[jobs](#a-job-file)", "backupctl__hosts__options__LocalOptions": "`{}`", "LocalOptions": "`{}`"}
    title = _title(name)
    return words.get(name, f"[{title}](#{title.lower().replace(' ', '-')})")


PAGES = {"cli.md": cli_page, "configuration.md": configuration_page}


def outdated() -> list[str]:
    """A readable difference for each page that does not say what the code says."""
    found = []
    for name, make in PAGES.items():
        path = REFERENCE / name
        written = path.read_text() if path.is_file() else ""
        wanted = make()
        if written != wanted:
            lines = difflib.unified_diff(
                written.splitlines(), wanted.splitlines(), str(path), "made now", lineterm="", n=1
            )
            found.append("\n".join(lines))
    return found


def main() -> int:
    if "--check" in sys.argv[1:]:
        found = outdated()
        print("\n".join([*found, "run: python tools/reference.py"] if found else ["docs/reference is current"]))
        return 1 if found else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
