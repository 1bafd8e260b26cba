"""Making a repository in an empty place, and finding the keys of one that is there."""

from __future__ import annotations

import hashlib
import re
import socket

from backupctl.clock import Clock
from backupctl.errors import DamageError, Exists, NoSuchError, NotFound, UsageError, WrongKeyError
from backupctl.repository.format import FormatError
from backupctl.repository.format.config import RepositoryConfig, decode_config, encode_config, new_config
from backupctl.repository.format.crypto import Keys, SealError, seal, unseal
from backupctl.repository.format.keyfile import encode_keyfile, open_keyfile
from backupctl.repository.locks import user_name
from backupctl.storage.protocol import ObjectStore

MAX_KEYS = 20
_HEX_ID = re.compile(r"[0-9a-f]{64}")


def create(store: ObjectStore, password: str, *, clock: Clock, scrypt_n: int) -> tuple[Keys, RepositoryConfig]:
    """A new repository. Raises Exists when anything of one is there, UsageError for a password that other programs would
    read differently."""
    if not password or password != password.strip():
        raise UsageError(
            "a repository password may not be empty, nor begin or end with white space: restic trims files",
            next_step="choose another password, e.g. `openssl rand -base64 33`",
        )
    for prefix in ("config", "keys/", "snapshots/", "index/", "data/"):
        for info in store.list(prefix):
            raise Exists(
                f"{store.location} already holds (part of) a repository: {info.name}",
                name=info.name,
                location=store.location,
                next_step="open it"
                if prefix == "config"
                else "choose an empty place; if only `keys/` is there, an earlier init was cut off: delete that folder",
            )
    keys, config = Keys.random(), new_config()
    keyfile = encode_keyfile(
        keys, password, created=clock.now(), username=user_name(), hostname=socket.gethostname(), n=scrypt_n
    )
    key_name = f"keys/{hashlib.sha256(keyfile).hexdigest()}"
    store.put(key_name, keyfile)
    try:
        store.put("config", seal(keys, encode_config(config)), if_absent=True)
    except Exists:  # another one was made meanwhile: our key would open with its password, and fit nothing in it
        store.delete(key_name)
        raise
    return keys, config


def unlock(store: ObjectStore, password: str) -> tuple[Keys, RepositoryConfig]:
    """Raises NoSuchError when there is no config, WrongKeyError when no key opens with `password`, DamageError."""
    try:
        sealed = store.get("config")
    except NotFound:
        left = next((info.name for prefix in ("snapshots/", "data/") for info in store.list(prefix)), None)
        if left is not None:
            raise DamageError(
                f"{store.location}: config is missing, although {left} is there",
                name="config",
                next_step="put `config` back from a copy of the repository; `backupctl init` cannot help",
            ) from None
        raise NoSuchError(
            f"{store.location} holds no repository", next_step="create it with `backupctl init`"
        ) from None
    keys = _find_keys(store, password)
    try:
        config = decode_config(unseal(keys, sealed))
    except FormatError as error:
        raise DamageError(
            f"{store.location}: config: {error}",
            name="config",
            next_step="put `config` back from a copy of the repository",
        ) from None
    return keys, config


def _find_keys(store: ObjectStore, password: str) -> Keys:
    """Try each key file. A damaged one does not hide a good one (it does in restic), but is named when none opens."""
    damage: DamageError | None = None
    names = [info.name for info in store.list("keys/") if _HEX_ID.fullmatch(info.name.removeprefix("keys/"))]
    for name in names[:MAX_KEYS]:
        data = store.get(name)
        try:
            if hashlib.sha256(data).hexdigest() != name.removeprefix("keys/"):
                raise FormatError("the stored bytes do not match their name")
            return open_keyfile(data, password)
        except SealError:
            continue
        except FormatError as error:
            damage = DamageError(
                f"{store.location}: {name}: {error}", name=name, next_step="restore the key from a copy"
            )
    if damage is not None:
        raise damage
    if not names:
        raise DamageError(
            f"{store.location}: there is a config but no file in keys/",
            name="keys/",
            next_step="put the key file back from a copy of the repository",
        )
    raise WrongKeyError(
        f"{store.location}: the configured password opens none of the repository's keys ({len(names)})",
        next_step="compare the password file with the printed recovery kit; one more line is another password",
    )
