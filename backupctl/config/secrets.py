"""Fetch a secret from where the configuration says it is. What comes back is redacted from every log from then on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from backupctl.errors import ConfigError
from backupctl.hosts import process
from backupctl.hosts.secret import SecretRef

COMMAND_TIMEOUT_SECONDS = 30
MAX_BYTES = 1 << 20


def fetch_secret(reference: SecretRef) -> bytes:
    """The secret's bytes, without one newline at the end. Raises ConfigError: missing, empty, readable by others."""
    if reference.file is not None:
        content = _from_file(Path(reference.file), private=True)
    elif reference.credential is not None:
        content = _from_credential(reference.credential)
    elif reference.command is not None:
        content = _from_command(reference.command)
    else:
        assert reference.env is not None
        content = os.environb.get(os.fsencode(reference.env), b"")
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content:
        raise ConfigError(f"the secret in {reference} is missing or empty", next_step="put the secret there")
    process.register_secret(content)
    return content


def secrets_in(value: Any) -> Iterator[SecretRef]:
    """Every reference in a model, at any depth, each once."""
    seen: list[SecretRef] = []
    for one in _references(value):
        if one not in seen:
            seen.append(one)
            yield one


def _references(value: Any) -> Iterator[SecretRef]:
    if isinstance(value, SecretRef):
        yield value
    elif isinstance(value, BaseModel):
        yield from _references(list(dict(value).values()))
    elif isinstance(value, Mapping):
        yield from _references(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _references(one)


def _from_file(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and stat.S_ISREG(mode) and mode & 0o077:
                raise ConfigError(
                    f"the secret file {path} can be read by others (mode {stat.S_IMODE(mode):04o})",
                    next_step=f"chmod 600 {path}",
                )
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the secret file {path} cannot be read: {error.strerror}",
            next_step="make the file, readable by this user only, or correct its path in the configuration",
        ) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the secret file {path} is larger than 1 MiB: it is no secret", next_step="correct its path")
    return content


def _from_credential(name: str) -> bytes:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise ConfigError(
            f"the credential {name!r} is given by systemd, and $CREDENTIALS_DIRECTORY is not set",
            next_step="run it as the systemd unit with LoadCredential=, or give the secret as {file: PATH}",
        )
    if "/" in name or name in (".", ".."):
        raise ConfigError(f"{name!r} is no name of a credential", next_step="give the name that LoadCredential= has")
    return _from_file(Path(directory, name), private=False)  # systemd guards its directory


def _from_command(argv: list[str]) -> bytes:
    try:
        completed = process.run(argv, timeout=COMMAND_TIMEOUT_SECONDS)
    except process.TimedOutError as error:
        raise ConfigError(
            f"the secret's command {argv[0]!r} hangs: {error.message}", next_step=error.next_step
        ) from error
    if completed.returncode != 0:
        raise ConfigError(
            f"the secret's command {argv[0]!r} ended with exit code {completed.returncode}",
            next_step="run it by hand as this user and see what it says",
        )
    return completed.stdout
