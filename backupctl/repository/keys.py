"""The keys of a repository: each file in `keys/` holds the same master keys, sealed with a password of its own.

Adding and removing passwords re-encrypts nothing. Whoever has once opened the repository may have kept the master keys,
which no removal takes back: then only a copy into a new repository helps (`repository.copy`).
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from backupctl.errors import Corrupt, DamageError, NoSuchError, NotFound, UsageError
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import SealError, unseal
from backupctl.repository.format.keyfile import KeyFacts, describe_keyfile, encode_keyfile, open_keyfile
from backupctl.repository.locks import user_name
from backupctl.repository.opening import MAX_KEYS
from backupctl.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class RepositoryKey:
    """A key file. `facts` is what it says of itself, None when it cannot be read, and `damage` then says why."""

    id: str
    facts: KeyFacts | None
    damage: str = ""
    opens: bool = False  # with the password that was tried

    @property
    def short_id(self) -> str:
        return self.id[:8]


def list_keys(repository: Repository, password: str | None = None) -> list[RepositoryKey]:
    """Every key file, oldest first, damaged ones last. With `password`, `opens` tells which ones it opens; each try
    costs a tenth of a second on purpose."""
    keys = [_look(repository, key_id, password) for key_id in repository.list_ids("keys/")]
    found = [key for key in keys if key is not None]
    return sorted(found, key=lambda key: (key.facts is None, _age(key), key.id))


def _age(key: RepositoryKey) -> float:
    return key.facts.created.timestamp() if key.facts is not None and key.facts.created is not None else 0.0


def _look(repository: Repository, key_id: str, password: str | None) -> RepositoryKey | None:
    try:
        data = repository.store.get(f"keys/{key_id}")
        if hashlib.sha256(data).hexdigest() != key_id:
            raise FormatError("the stored bytes do not match their name")
        facts = describe_keyfile(data)
        return RepositoryKey(key_id, facts, opens=password is not None and _opens(repository, data, password))
    except NotFound:
        return None  # removed between list and get
    except (Corrupt, FormatError) as error:
        return RepositoryKey(key_id, None, damage=error.message if isinstance(error, Corrupt) else str(error))


def _opens(repository: Repository, data: bytes, password: str) -> bool:
    """Whether the password opens this key file and the file opens this repository. Raises FormatError."""
    try:
        keys = open_keyfile(data, password)
        if keys != repository.keys:  # another program may write the same key differently: some of its bits mean nothing
            unseal(keys, repository.store.get("config"))
    except SealError:
        return False
    return True


def find_key(keys: Sequence[RepositoryKey], prefix: str) -> RepositoryKey:
    """Raises NoSuchError when no key, or more than one, begins so."""
    found = [key for key in keys if prefix and key.id.startswith(prefix)]
    if len(found) != 1:
        what = f"{len(found)} keys begin with" if found else "no key begins with"
        known = ", ".join(key.short_id for key in keys)
        raise NoSuchError(f"{what} {prefix!r}; there is {known or 'none'}", next_step="backupctl key list REPOSITORY")
    return found[0]


def add_key(repository: Repository, password: str, *, scrypt_n: int = 32768) -> RepositoryKey:
    """One more password for the same repository. The file is read back and opened before this returns.

    Raises UsageError for a password that other programs would read differently or that is a key already, and when there
    are as many keys as stock restic tries."""
    require_password(password)
    with repository.lock():
        present = list_keys(repository, password)
        same = next((key for key in present if key.opens), None)
        if same is not None:
            raise UsageError(
                f"this password is key {same.short_id} already", next_step="nothing to do, or choose another password"
            )
        if len(present) >= MAX_KEYS:
            raise UsageError(
                f"there are {len(present)} keys, and stock restic tries no more than {MAX_KEYS}",
                next_step="remove one that nobody uses: backupctl key remove",
            )
        data = encode_keyfile(
            repository.keys,
            password,
            created=repository.clock.now(),
            username=user_name(),
            hostname=socket.gethostname(),
            n=scrypt_n,
        )
        key_id = hashlib.sha256(data).hexdigest()
        repository.store.put(f"keys/{key_id}", data)
        made = _look(repository, key_id, password)
    if made is None or not made.opens:
        why = made.damage if made is not None and made.damage else "it does not open what it was made for"
        raise DamageError(
            f"keys/{key_id}: the new key was stored and cannot be used: {why}",
            name=f"keys/{key_id}",
            next_step=f"test the store, then remove key {key_id[:8]}: backupctl storage check REPOSITORY",
        )
    return made


def require_password(password: str) -> None:
    """Raises UsageError for one that is empty or has white space at an end: restic trims what it reads from files."""
    if not password or password != password.strip():
        raise UsageError(
            "a repository password may not be empty, nor begin or end with white space: restic trims files",
            next_step="choose another password, e.g. `openssl rand -base64 33`",
        )


@dataclass(frozen=True, slots=True)
class KeyRemoval:
    """What `remove_key` would do, decided. `left` are the keys that stay, `proven` one of them that a password at hand
    opens."""

    key: RepositoryKey
    in_use: bool
    left: list[RepositoryKey]
    proven: RepositoryKey


def plan_removal(repository: Repository, prefix: str, *, password: str, proof: str | None = None) -> KeyRemoval:
    """Changes nothing. `password` is the one in use, `proof` another one at hand. A key is removed only while a password
    at hand opens another: raises UsageError for the last key, and for the one in use without such a proof."""
    keys = list_keys(repository, password)
    key = find_key(keys, prefix)
    left = [other for other in keys if other.id != key.id]
    if not any(other.facts is not None for other in left):
        raise UsageError(
            f"key {key.short_id} is the only one; without it nobody can read a single backup",
            next_step="add another first: backupctl key add REPOSITORY --password-file FILE",
        )
    proven = next((other for other in left if other.opens), None)
    if proven is None and proof is not None:
        opened = {other.id for other in list_keys(repository, proof) if other.opens}
        proven = next((other for other in left if other.id in opened), None)
        if proven is None:
            raise UsageError(
                f"the given password opens no key other than {key.short_id}",
                next_step="backupctl key list REPOSITORY --password-file FILE",
            )
    if proven is None:
        raise UsageError(
            f"key {key.short_id} is the one in use, and no other is proven to open",
            next_step="change the repository's `password` to another key first, or prove one: --password-file FILE",
        )
    return KeyRemoval(key, key.opens, left, proven)


def remove_key(repository: Repository, removal: KeyRemoval) -> None:
    """Under an exclusive lock, and only while the proven key is still there. Idempotent."""
    with repository.lock(exclusive=True):
        if removal.proven.id not in repository.list_ids("keys/"):
            raise UsageError(
                f"key {removal.proven.short_id}, which was to stay, is gone; nothing was removed",
                next_step="backupctl key list REPOSITORY",
            )
        repository.store.delete(f"keys/{removal.key.id}")
