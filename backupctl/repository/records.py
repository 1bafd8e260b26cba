"""Our own facts, sealed like everything else, under `backupctl/<kind>/<sha256 of the stored bytes>`.

Stock restic neither lists nor deletes names outside its own folders.
"""

from __future__ import annotations

import hashlib
import json
import re

from backupctl.errors import Corrupt, DamageError, NoSuchError, NotFound, UsageError
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, seal, unseal
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.unpacked import decode_unpacked, encode_unpacked
from backupctl.storage.protocol import ObjectStore

PREFIX = "backupctl/"
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ID = re.compile(r"[0-9a-f]{64}")


def is_record(kind: str, record_id: str) -> bool:
    return bool(_KIND.fullmatch(kind) and _ID.fullmatch(record_id))


def record_name(kind: str, record_id: str) -> str:
    """The object's name. Raises UsageError for what cannot be one."""
    if not is_record(kind, record_id):
        raise UsageError(f"not a record: {kind}/{record_id}")
    return f"{PREFIX}{kind}/{record_id}"


def save_record(store: ObjectStore, keys: Keys, kind: str, data: bytes) -> str:
    """Store `data`; the record's id."""
    sealed = seal(keys, encode_unpacked(data))
    record_id = hashlib.sha256(sealed).hexdigest()
    store.put(record_name(kind, record_id), sealed)
    return record_id


def load_record(store: ObjectStore, keys: Keys, kind: str, record_id: str) -> bytes:
    """Raises NoSuchError, DamageError."""
    name = record_name(kind, record_id)
    try:
        sealed = store.get(name)
    except NotFound:
        raise NoSuchError(
            f"{store.location}: no {kind} record {record_id}", next_step=f"check the repository: {name} is gone"
        ) from None
    except Corrupt as error:
        raise DamageError(f"{name}: {error.message}", name=name) from None
    if hashlib.sha256(sealed).hexdigest() != record_id:
        raise DamageError(f"{name}: the stored bytes do not match their name", name=name)
    try:
        return decode_unpacked(unseal(keys, sealed))
    except FormatError as error:
        raise DamageError(f"{name}: {error}", name=name) from None


def list_records(store: ObjectStore, kind: str) -> list[str]:
    prefix = f"{PREFIX}{kind}/"
    ids = (info.name.removeprefix(prefix) for info in store.list(prefix))
    return [record_id for record_id in ids if _ID.fullmatch(record_id)]


def fingerprints_of(snapshot: Snapshot) -> list[str]:
    """The ids of the fingerprint records that a snapshot's tags name."""
    ids = (tag.removeprefix("fingerprint:") for tag in snapshot.tags if tag.startswith("fingerprint:"))
    return [record_id for record_id in ids if is_record("fingerprint", record_id)]


def manifest_id(fingerprint: bytes) -> str:
    """The manifest that a fingerprint record names, empty for none. Raises FormatError."""
    try:
        fields = json.loads(fingerprint)
    except (ValueError, RecursionError):
        raise FormatError("the fingerprint is not JSON") from None
    found = fields.get("manifest", "") if isinstance(fields, dict) else ""
    if found and not (isinstance(found, str) and is_record("manifest", found)):
        raise FormatError("the fingerprint names no proper manifest")
    return str(found or "")
