"""What a host needs to be built again beside its data: packages, services, accounts, timers, and configuration trees.

Each section is a canonical JSON file, so the files of two nights differ exactly where the host does. It is no database: a
drill restores the files and checks them like any others, and tells how the staging host differs, which is no fault of the
backup.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

from pydantic import Field, field_validator

from backupctl.clock import Clock, iso
from backupctl.hosts.protocol import Host
from backupctl.repository.entry import Entry
from backupctl.sources.files import FilesOptions, FilesSession, FilesSource
from backupctl.sources.options import SourceOptions
from backupctl.sources.protocol import Fingerprint, PreflightFinding, SnapshotFiles
from backupctl.sources.software_inventory import (
    READ_BYTES,
    Inventory,
    SectionDifference,
    canonical,
    compare_inventories,
    digests,
    gather,
    parse_section,
)
from backupctl.sources.streams import directory_node, stream_node

TREES = b"files"
SECTIONS = b"inventory"
SUFFIX = b".json"


class SoftwareOptions(SourceOptions):
    trees: list[str] = Field(
        default_factory=list, description="absolute paths of configuration to save whole and to compare, such as /etc"
    )
    exclude: list[str] = Field(default_factory=list, description="patterns to leave out, as for `files`")

    @field_validator("trees")
    @classmethod
    def _as_for_files(cls, trees: list[str]) -> list[str]:
        return FilesOptions(paths=trees).paths if trees else []


class SoftwareSource:
    kind = "software"

    def __init__(self, name: str, options: SoftwareOptions) -> None:
        self.name = name
        self.options = options

    @property
    def files(self) -> FilesSource | None:
        """The configuration trees, as a source of their own."""
        options = self.options
        if not options.trees:
            return None
        return FilesSource(self.name, FilesOptions(host=options.host, paths=options.trees, exclude=options.exclude))

    def preflight(self, host: Host) -> list[PreflightFinding]:
        inventory = gather(host)
        known = [f"{len(section['items'])} {name}" for name, section in inventory.items() if "items" in section]
        findings = [PreflightFinding("info", f"it can tell: {', '.join(known).replace('_', ' ')}")]
        findings += [
            PreflightFinding("info", f"{name.replace('_', ' ')} not performed: {section['not_performed']}")
            for name, section in inventory.items()
            if "not_performed" in section
        ]
        return findings + (self.files.preflight(host) if self.files else [])

    def open(self, host: Host, clock: Clock) -> SoftwareSession:
        return SoftwareSession(self, host, clock)

    def differences(self, host: Host, files: SnapshotFiles) -> list[SectionDifference]:
        """How `host` differs now from the inventory in a snapshot. Raises DamageError, UnreachableError."""
        return compare_inventories(read_inventory(files), gather(host, self.options.trees, self.options.exclude))


def read_inventory(files: SnapshotFiles) -> Inventory:
    """Every section that a snapshot holds."""
    inventory = {}
    for name in files.names(SECTIONS):
        source = files.open(SECTIONS + b"/" + name)
        try:
            data = b"".join(iter(partial(source.read, READ_BYTES), b""))
        finally:
            source.close()
        section = name.removesuffix(SUFFIX).decode()
        inventory[section] = parse_section(section, data)
    return inventory


class SoftwareSession:
    """The host as it is while it is looked at: no snapshot of it exists."""

    def __init__(self, source: SoftwareSource, host: Host, clock: Clock) -> None:
        self._source, self._host = source, host
        self._time = clock.now()
        self._inventory: Inventory = {}
        self._trees: FilesSession | None = source.files.open(host, clock) if source.files else None

    def entries(self) -> Iterator[Entry]:
        if self._trees is not None:
            yield Entry(TREES, directory_node(TREES, self._time))
            for entry in self._trees.entries():
                entry.path = TREES + b"/" + entry.path
                yield entry
        options = self._source.options
        self._inventory = gather(self._host, options.trees, options.exclude)
        yield Entry(SECTIONS, directory_node(SECTIONS, self._time))
        for section in sorted(self._inventory):
            yield self._entry(section.encode() + SUFFIX, canonical(self._inventory[section]))

    def _entry(self, name: bytes, content: bytes) -> Entry:
        node = stream_node(name, self._time, len(content))
        return Entry(SECTIONS + b"/" + name, node, open=lambda: io.BytesIO(content))

    def fingerprint(self) -> Fingerprint:
        facts = self._host.facts()
        return {
            "kind": "software",
            "time": iso(self._time),
            "versions": {"system": facts.system, "kernel": facts.kernel},
            "host": {"name": self._host.name, "hostname": facts.hostname, "machine_id": facts.machine_id},
            "sections": digests(self._inventory),
            "trees": self._trees.fingerprint() if self._trees is not None else {},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is held between entries."""


def shown(lines: Sequence[str], limit: int) -> str:
    """The first lines, and how many more there are."""
    more = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    return "; ".join([*lines[:limit], *more])
