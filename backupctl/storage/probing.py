"""What every store must really do, tried on a scratch name: the common part of `probe`."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from backupctl.errors import Exists, NotFound, UserError
from backupctl.storage.protocol import ObjectStore

Fact = tuple[str, str, bool]
SCRATCH = "backupctl-probe-"  # no directory, which a local store would leave behind
ODD = " +%2B&=;#~'(é)"  # what a server or a proxy in between may mangle


def scratch_name() -> str:
    return f"{SCRATCH}{secrets.token_hex(16)}"


def probe_basics(store: ObjectStore, name: str) -> tuple[Fact, ...]:
    """Try put, get, ranges, list, overwrite-if-absent and delete. Failures become facts, never exceptions."""
    data = secrets.token_bytes(1000)

    def overwrite() -> str:
        try:
            store.put(name, b"other", if_absent=True)
        except Exists:
            if store.get(name) != data:
                raise UserError("refused, but the object changed") from None
            return "refused"
        raise UserError("accepted: two writers could both believe that they won")

    def written() -> str:
        store.put(name, data)
        return "written"

    def gone() -> str:
        store.delete(name)
        store.delete(name)
        try:
            store.stat(name)
        except NotFound:
            return "deleted, and deleting it again is no error"
        raise UserError("still there after delete")

    def odd() -> str:
        other = name + ODD
        store.put(other, data)
        try:
            if [info.name for info in store.list(other)] != [other]:
                raise UserError("listed under another name")
            return same(store.get(other), data)
        finally:
            store.delete(other)

    def same(what: bytes, expected: bytes) -> str:
        if what != expected:
            raise UserError("other bytes came back")
        return "the same bytes came back"

    def listed() -> str:
        sizes = [info.size for info in store.list(name)]
        if sizes != [len(data)]:
            raise UserError(f"expected one object of {len(data)} bytes right after writing, listed sizes {sizes}")
        return "listed with its size"

    steps: list[tuple[str, Callable[[], str]]] = [
        ("write an object", written),
        ("read it", lambda: same(store.get(name), data)),
        ("read a part of it", lambda: same(store.get(name, offset=100, length=17), data[100:117])),
        ("list it", listed),
        ("overwrite it when only creation is allowed", overwrite),
        ("write and read one with odd characters in its name", odd),
        ("delete it", gone),
    ]
    return tuple(attempt(what, step) for what, step in steps)


def attempt(what: str, step: Callable[[], str]) -> Fact:
    """One fact: what was tried, what happened, whether that is good."""
    try:
        return what, step(), True
    except UserError as error:
        return what, error.message, False
