"""Snapshot files: one JSON object that names a root tree and what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.repository.format import FormatError
from backupctl.repository.format.gojson import hex_id, load_object, string, strings, unsigned
from backupctl.repository.format.times import datetime_ns, format_time, ns_datetime, parse_time


@dataclass(slots=True)
class Snapshot:
    """`tree` is the root tree's blob id; `parent` and `original` are snapshot ids (hex) or empty. `id` is the file's
    name: empty until the snapshot is saved."""

    time: datetime
    tree: bytes
    paths: list[str] = field(default_factory=list)
    hostname: str = ""
    username: str = ""
    uid: int = 0
    gid: int = 0
    excludes: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    parent: str = ""
    original: str = ""
    program_version: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    @property
    def short_id(self) -> str:
        return self.id[:8]


def encode_snapshot(snapshot: Snapshot) -> bytes:
    fields: dict[str, Any] = {
        "time": format_time(datetime_ns(snapshot.time)),
        "parent": snapshot.parent,
        "tree": snapshot.tree.hex(),
        "paths": snapshot.paths,
        "hostname": snapshot.hostname,
        "username": snapshot.username,
        "uid": snapshot.uid,
        "gid": snapshot.gid,
        "excludes": snapshot.excludes,
        "tags": snapshot.tags,
        "original": snapshot.original,
        "program_version": snapshot.program_version,
        "summary": snapshot.summary,
    }
    kept = {key: value for key, value in fields.items() if value or key == "paths"}
    return json.dumps(kept, separators=(",", ":")).encode()


def decode_snapshot(data: bytes, snapshot_id: str = "") -> Snapshot:
    """Raises FormatError; a snapshot without a tree is one."""
    fields = load_object(data)
    summary = fields.get("summary")
    if summary is not None and not isinstance(summary, dict):
        raise FormatError("the summary is not an object")
    return Snapshot(
        time=ns_datetime(parse_time(fields.get("time"))),
        tree=hex_id(fields.get("tree")),
        paths=strings(fields.get("paths")),
        hostname=string(fields.get("hostname")),
        username=string(fields.get("username")),
        uid=unsigned(fields.get("uid"), bits=32),
        gid=unsigned(fields.get("gid"), bits=32),
        excludes=strings(fields.get("excludes")),
        tags=strings(fields.get("tags")),
        parent=string(fields.get("parent")),
        original=string(fields.get("original")),
        program_version=string(fields.get("program_version")),
        summary=summary or {},
        id=snapshot_id,
    )
