"""From where on the archived logs of database servers are needed, by the backups that there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backupctl.sources.mariadb_replay import sequence
from backupctl.sources.wal_format import parse_lsn


@dataclass(slots=True)
class LogNeeds:
    """`segments`: PostgreSQL server → first LSN that is needed, bytes of a segment. `files`: MariaDB server → first binary log."""

    segments: dict[str, tuple[int, int]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, sources: Mapping[str, Mapping[str, Any]]) -> None:
        """Of a fingerprint record."""
        for one in (facts["fingerprint"] for facts in sources.values()):
            if one.get("method") == "physical" and "system_identifier" in one:
                start, server = parse_lsn(one["start_lsn"]), one["system_identifier"]
                before = self.segments.get(server, (start, 0))[0]
                self.segments[server] = (min(start, before), one["segment_bytes"])
            begin = one.get("base") or one.get("binary_log")
            if one.get("kind") == "mariadb" and one.get("server_uid") and begin:
                server = one["server_uid"]
                self.files[server] = min(begin[0], self.files.get(server, begin[0]), key=sequence)
