"""The marker that makes a directory of a host a place where drills may restore and delete.

`register` is somebody's decision, made once per machine; every drill asks `require_marker` first. The marker names the
host and carries the machine's identity, so that a copied disk, a changed address or a wrong config line stops a drill
before it writes.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass

from backupctl.clock import Clock, SystemClock, iso
from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import Host

FILE_NAME = b"backupctl-staging.json"
LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Marker:
    name: str  # the host's name in the configuration
    nonce: str
    registered: str  # RFC 3339, UTC
    machine_id: str  # "" on machines without one; then the hostname stands for it
    hostname: str


def marker_path(scratch: bytes) -> bytes:
    return scratch.rstrip(b"/") + b"/" + FILE_NAME


def register(host: Host, scratch: bytes, name: str, *, clock: Clock | None = None) -> Marker:
    """Make `scratch` and mark it. An existing marker is replaced."""
    facts = host.facts()
    marker = Marker(
        name=name,
        nonce=secrets.token_hex(16),
        registered=iso((clock or SystemClock()).now()),
        machine_id=facts.machine_id,
        hostname=facts.hostname,
    )
    path = marker_path(scratch)
    host.make_directory(scratch, mode=0o711)  # servers run there as somebody else; each drill's own directory is 0700
    host.remove_tree(path)
    sink = host.open_write(path, mode=0o644)
    sink.write((json.dumps(asdict(marker), indent=2, sort_keys=True) + "\n").encode("utf-8"))
    sink.close()
    return marker


def require_marker(host: Host, scratch: bytes, name: str) -> Marker:
    """The marker, when it is there and about this machine. Raises CouldNotRunError otherwise."""
    where = f"{scratch.decode('utf-8', 'backslashreplace')} on host {name}"
    fix = f"if drills may restore and delete there, type `backupctl host register {name}`"
    try:
        with host.open_read(marker_path(scratch)) as stream:
            found = json.loads(stream.read(LIMIT_BYTES))
        marker = Marker(**{field: str(found[field]) for field in Marker.__slots__})
    except FileNotFoundError:
        raise CouldNotRunError(f"{where} is not registered for staging", next_step=fix) from None
    except OSError as error:
        raise CouldNotRunError(
            f"{where}: the staging marker cannot be read: {error.strerror}", next_step=fix
        ) from error
    except (ValueError, KeyError, TypeError):
        raise CouldNotRunError(f"{where}: the staging marker is damaged", next_step=fix) from None
    if marker.name != name:
        raise CouldNotRunError(f"{where} is registered for host {marker.name}", next_step=fix)
    facts = host.facts()
    if (marker.machine_id or marker.hostname) != (facts.machine_id or facts.hostname):
        raise CouldNotRunError(
            f"{where} was registered on another machine ({marker.hostname}, {marker.registered})", next_step=fix
        )
    return marker
