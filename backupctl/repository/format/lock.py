"""Lock files: who works on the repository, and whether others may too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backupctl.repository.format.gojson import load_object, string, unsigned
from backupctl.repository.format.times import datetime_ns, format_time, ns_datetime, parse_time


@dataclass(frozen=True, slots=True)
class LockInfo:
    """`boot_id`, `pid_namespace` and `start_time` (clock ticks since boot) are ours: they tell one process from every
    other that ever had its pid. Empty or 0 in locks of other programs."""

    time: datetime
    exclusive: bool
    hostname: str
    username: str
    pid: int
    uid: int = 0
    gid: int = 0
    boot_id: str = ""
    pid_namespace: str = ""
    start_time: int = 0
    id: str = ""


def encode_lock(lock: LockInfo) -> bytes:
    fields: dict[str, Any] = {
        "time": format_time(datetime_ns(lock.time)),
        "exclusive": lock.exclusive,
        "hostname": lock.hostname,
        "username": lock.username,
        "pid": lock.pid,
    }
    fields |= {key: value for key, value in (("uid", lock.uid), ("gid", lock.gid)) if value}
    if lock.boot_id:
        fields["backupctl"] = {
            "boot_id": lock.boot_id,
            "pid_namespace": lock.pid_namespace,
            "start_time": lock.start_time,
        }
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_lock(data: bytes, lock_id: str = "") -> LockInfo:
    """Raises FormatError."""
    fields = load_object(data)
    own = fields.get("backupctl")
    own = own if isinstance(own, dict) else {}
    return LockInfo(
        time=ns_datetime(parse_time(fields.get("time"))),
        exclusive=bool(fields.get("exclusive")),
        hostname=string(fields.get("hostname")),
        username=string(fields.get("username")),
        pid=unsigned(fields.get("pid")),
        uid=unsigned(fields.get("uid"), bits=32),
        gid=unsigned(fields.get("gid"), bits=32),
        boot_id=string(own.get("boot_id")),
        pid_namespace=string(own.get("pid_namespace")),
        start_time=unsigned(own.get("start_time")),
        id=lock_id,
    )
