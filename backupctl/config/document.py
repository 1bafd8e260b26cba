"""A YAML file as plain values, with the place of every key and value. YAML 1.2: `no` is a text, keys stand once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from backupctl.errors import ConfigError

VARIABLE = "BACKUPCTL_CONFIG"
USUAL = (Path("backupctl.yaml"), Path("/etc/backupctl/backupctl.yaml"))

Location = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong. `file` as the user named it; `where` is the dotted path of keys."""

    file: str
    line: int
    column: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.where + ': ' if self.where else ''}{self.what}"


class ConfigFaults(ConfigError):
    """Everything that is wrong with a configuration, at once."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(dict.fromkeys(faults))
        super().__init__(
            "\n".join(map(str, self.faults)),
            next_step="correct the file and run `backupctl config validate`",
        )


@dataclass(slots=True)
class Document:
    """`path` is absolute; `shown` is how the user named the file; `written` is when it last was, in UTC."""

    path: Path
    shown: str
    value: dict[str, Any] = field(default_factory=dict)
    keys: dict[Location, Place] = field(default_factory=dict)
    values: dict[Location, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    written: datetime | None = None

    @property
    def readable(self) -> bool:
        """Whether there is anything to judge; when not, `faults` says why."""
        return () in self.values

    def place(self, where: Location, *, key: bool = False) -> Place:
        """Of the value at `where` (or its key); of the nearest parent that the file has."""
        for length in range(len(where), -1, -1):
            found = self.keys.get(where[:length]) if key and length == len(where) else None
            found = found or self.values.get(where[:length])
            if found:
                return found
        return 1, 1

    def fault(self, where: Location, what: str, *, key: bool = False) -> None:
        self.faults.append(Fault(self.shown, *self.place(where, key=key), ".".join(map(str, where)), what))


def find(path: Path | None) -> Path:
    """The configuration file: `path`, else $BACKUPCTL_CONFIG, else ./backupctl.yaml, else /etc/backupctl/backupctl.yaml. Raises
    ConfigError when there is none."""
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            origin = "" if path else f" (from ${VARIABLE})"
            what = "is a directory" if named.is_dir() else "does not exist"
            raise ConfigError(
                f"the configuration {named}{origin} {what}", next_step="name the file, or make one: backupctl init"
            )
        return named
    for usual in USUAL:
        if usual.is_file():
            return usual
    places = ", ".join(("--config", f"${VARIABLE}", *map(str, USUAL)))
    raise ConfigError(f"no configuration found; looked at {places}", next_step="backupctl init")


def read_main(path: Path | None) -> Document:
    """The main file that `find` finds. Raises what that does."""
    main = find(path)
    return read_document(main, str(main))


def read_document(path: Path, shown: str) -> Document:
    """Never raises for what the file holds: `faults` says it."""
    document = Document(path.absolute(), shown)
    try:
        with path.open("rb") as file:
            document.written = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        document.fault((), f"cannot be read: {error.strerror}")
        return document
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        document.faults.append(Fault(shown, line, 1, "", "is no UTF-8 text"))
        return document
    _Reader(document).read(text)
    return document


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.yaml = YAML(typ="safe", pure=True)
        self.open_nodes: list[Node] = []

    def read(self, text: str) -> None:
        try:
            node = self.yaml.compose(text)
            if node is None:
                self.document.fault((), "is empty")
            elif not isinstance(node, MappingNode):
                self.document.fault((), "must be a mapping of keys to values")
            else:
                self.document.value = self._value(node, ())
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = f"is no YAML: {error.problem or error.context}"
            if "'\\t'" in what:
                what = "a tab cannot indent YAML; use spaces"
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            self.document.faults.append(Fault(self.document.shown, line, column, "", what))
        except (YAMLError, ValueError, RecursionError) as error:
            said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            self.document.fault((), f"is no YAML: {said}")

    def _value(self, node: Node, where: Location) -> Any:
        self.document.values[where] = _place(node)
        if isinstance(node, ScalarNode):
            return self.yaml.constructor.construct_object(node)
        if any(node is other for other in self.open_nodes):
            self.document.fault(where, "an alias that holds itself")
            return None
        self.open_nodes.append(node)
        try:
            if isinstance(node, SequenceNode):
                return [self._value(item, (*where, number)) for number, item in enumerate(node.value)]
            return self._mapping(node, where)
        finally:
            self.open_nodes.pop()

    def _mapping(self, node: Node, where: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.document.faults.append(
                    Fault(self.document.shown, *_place(key_node), ".".join(map(str, where)), "a key must be a text")
                )
                continue
            key = str(key_node.value)
            if key in found:
                self.document.keys[*where, key] = _place(key_node)
                self.document.fault((*where, key), "this key stands twice", key=True)
                continue
            self.document.keys[*where, key] = _place(key_node)
            found[key] = self._value(value_node, (*where, key))
        return found


def _place(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1
