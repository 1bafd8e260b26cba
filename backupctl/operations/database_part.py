"""What `--only db:…`, `schema:…` and `table:…` mean, found in the fingerprint of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backupctl.errors import NoSuchError, UsageError
from backupctl.sources.protocol import Part
from backupctl.sources.streams import path_component

KINDS = ("db", "schema", "table")
SHOWN = 20
PARTABLE = "postgresql"


@dataclass(frozen=True, slots=True)
class ChosenPart:
    """`path` is what has to be read of the source's directory; `is_file`: that is the part itself, and nothing more."""

    source: str
    part: Part
    path: str
    shown: str
    is_file: bool


def is_part(only: str) -> bool:
    return only.partition(":")[0] in KINDS and ":" in only


def databases_of(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """name → what the fingerprint says of it, for sources that hold databases."""
    databases: Mapping[str, Any] = facts["fingerprint"].get("databases", {}) if facts["kind"] != "files" else {}
    return databases


def choose_part(only: str, sources: Mapping[str, Any], rename: str, snapshot: str) -> ChosenPart:
    """`KIND:NAME`, where NAME may leave out what stands before it as long as it fits one thing only:
    `table:articles`, `table:public.articles`, `table:site/public.articles`, `table:site-db/site/public.articles`.
    Raises NoSuchError, UsageError."""
    kind, _, name = only.partition(":")
    every = list(_every(kind, sources))
    found = [one for one in every if _fits(one[0], name, kind)]
    if not found:
        there = ", ".join(full for full, _ in every[:SHOWN]) + (", …" if len(every) > SHOWN else "")
        what = {"db": "database"}.get(kind, kind)
        raise NoSuchError(
            f"snapshot {snapshot} holds no {what} {name!r}; it holds: {there or 'none'}",
            next_step=f"backupctl ls {snapshot}",
        )
    if len(found) > 1:
        choices = ", ".join(f"{kind}:{full}" for full, _ in found[:SHOWN])
        raise UsageError(f"{only} fits several", next_step=f"choose one: {choices}")
    ((full, chosen),) = found
    facts = sources[chosen.source]
    if facts["kind"] != PARTABLE and (kind != "db" or rename):
        raise UsageError(
            f"source {chosen.source} ({facts['kind']}) gives back whole databases under their own names",
            next_step=f"--only db:{chosen.source}/{chosen.part.database} --start-database, and copy from there",
        )
    if facts["fingerprint"].get("method") == "physical" and (kind != "db" or rename):
        raise UsageError(
            f"source {chosen.source} holds the files of a whole server (method physical)",
            next_step=f"--only db:{chosen.source}/{chosen.part.database} --start-database, and copy from there",
        )
    part = Part(chosen.part.database, chosen.part.tables, chosen.part.schema, chosen.part.table, rename)
    return ChosenPart(
        chosen.source, part, chosen.path, f"{kind} {full}" if kind != "db" else f"database {name}", chosen.is_file
    )


def _every(kind: str, sources: Mapping[str, Any]) -> Iterator[tuple[str, ChosenPart]]:
    """(its full name, the part), for each that there is."""
    for source, facts in sources.items():
        one_file = {"redis": "dump.rdb"}.get(facts["kind"])  # all databases of the server together
        for database, described in databases_of(facts).items():
            whole = facts["fingerprint"].get("method") == "physical"  # files of the server, not of a database
            path = (
                ""
                if whole
                else one_file or (path_component(database).decode() if facts["kind"] == PARTABLE else database)
            )
            if kind == "db":
                yield f"{source}/{database}", ChosenPart(source, Part(database), path, "", not whole)
                continue
            tables = list(described.get("tables", {}))
            wanted = {table: (table,) for table in tables} | {
                table: tuple(leaves) for table, leaves in described.get("partitioned", {}).items() if leaves
            }
            if kind == "schema":
                schemas = sorted({table.partition(".")[0] for table in tables})
                wanted = {one: tuple(t for t in tables if t.startswith(f"{one}.")) for one in schemas}
            for shown, chosen in wanted.items():
                schema, table = (shown, "") if kind == "schema" else ("", shown)
                part = Part(database, chosen, schema, table)
                yield f"{source}/{database}/{shown}", ChosenPart(source, part, path, "", False)


def _fits(full: str, name: str, kind: str) -> bool:
    return full == name or full.endswith(f"/{name}") or (kind == "table" and full.endswith(f".{name}"))
