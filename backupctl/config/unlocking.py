"""The keys of the repository that a run will most likely open, derived from what stands in the main file before that is checked:
scrypt takes one processor and 32 MiB for a tenth of a second, best while there is little else to do and to hold.

It is a guess, of a local repository with its password in a file, and nothing relies on it: who opens the repository says where it
is and what the password is, and gets the keys only when both are those that were guessed."""

from __future__ import annotations

import hmac
import stat
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backupctl.repository import opening
from backupctl.repository.format.config import RepositoryConfig
from backupctl.repository.format.crypto import Keys
from backupctl.storage.local import LocalStore

MAX_BYTES = 4096

Found = tuple[str, Keys, RepositoryConfig]  # the password first
_begun: dict[str, Future[Found | None]] = {}  # by the place of the repository


def begin(base: Path, repository: Mapping[Any, Any]) -> None:
    """Begin to unlock `repository`, as it is written in a file in `base`, in a thread; not when it is not as described above."""
    try:
        place, key = base / repository["storage"]["local"]["path"], base / repository["password"]["file"]
    except (KeyError, TypeError):
        return
    begun: Future[Found | None] = Future()

    def unlock() -> None:
        try:
            begun.set_result(_unlocked(place, key))
        except Exception:  # noqa: BLE001 — whoever opens the repository finds the same, and says it
            begun.set_result(None)

    _begun[str(place)] = begun
    threading.Thread(target=unlock, name="unlock ahead", daemon=True).start()


def begun(location: str, password: str) -> tuple[Keys, RepositoryConfig] | None:
    """What `opening.unlock` answers for the repository there with this password, when that was guessed, once."""
    guess = _begun.pop(location, None)
    found = guess.result() if guess is not None else None
    return found[1:] if found is not None and hmac.compare_digest(found[0].encode(), password.encode()) else None


def _unlocked(place: Path, key: Path) -> Found | None:
    info = key.stat()
    if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_BYTES:  # a pipe can be read only once
        return None
    password = key.read_bytes().removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    store = LocalStore(place)
    try:
        return password, *opening.unlock(store, password)
    finally:
        store.close()
