"""The password of a repository in the hands of several people: shares on paper, and the password back from them."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from backupctl.clock import iso
from backupctl.config.secrets import fetch_secret
from backupctl.errors import DamageError, UsageError
from backupctl.hosts.process import register_secret
from backupctl.hosts.secret import SecretRef
from backupctl.operations.context import Context
from backupctl.operations.starter import entry_of
from backupctl.repository.shares import Share, combine, split

SHARE_FILE = "recovery-share-{}-{}.txt"
_SHARE = re.compile(r"^share +(?P<value>[A-Za-z0-9 -]+)$", re.MULTILINE)
_PAGE = """\
RECOVERY SHARE {x} of {number} for the backupctl repository "{repository}"                made {made}
Any {needed} of the {number} bring its password back; {fewer} of them say nothing about it. Keep yours to yourself, locked away.

where      {location}
id         {id}
set        {set_id}; shares of another set do not fit, the newest set replaces all older ones
share      {share}

Is this page still readable?        backupctl key combine --check {file}
With {needed} shares as files (chmod 600), on a machine that nobody watches:
    backupctl key combine SHARE... --password-file {repository}.key
    a backupctl.yaml beside it, with:
    version: 1
    repositories:
      {repository}: {entry}
    backupctl catalog rebuild; backupctl snapshots; backupctl restore --at SNAPSHOT --into DIR
"""


def share_password(context: Context, repository: str, *, needed: int, number: int, directory: Path) -> list[Path]:
    """The configured password in `number` pages, 0600, of which any `needed` bring it back; proven before this returns.
    Raises UsageError for impossible numbers, and when a page is there already."""
    password = context.resources.password(repository).encode()
    opened = context.resources.repository(repository)  # only a password that opens is worth sharing
    shares = split(password, needed=needed, number=number)
    files = [directory / SHARE_FILE.format(repository, share.x) for share in shares]
    for file in files:
        if file.exists():
            raise UsageError(
                f"{file} exists; nothing was written", next_step="remove the old pages, or choose --into DIR"
            )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for share, file in zip(shares, files, strict=True):
        page = _PAGE.format(
            x=share.x,
            number=number,
            repository=repository,
            made=iso(context.clock.now()),
            needed=needed,
            fewer=needed - 1,
            location=opened.store.location,
            id=opened.id,
            set_id=share.set_id,
            share=share.encode(),
            file=file.name,
            entry=entry_of(context, repository),
        )
        _write(file, page)
    chosen = secrets.SystemRandom().sample(files, needed)
    if combine([read_share(file) for file in chosen]) != password:
        raise DamageError("the shares that were written do not bring the password back", name=str(directory))
    context.audit("key.shared", repository, set=shares[0].set_id, needed=needed, shares=number)
    return files


def read_share(file: Path) -> Share:
    """From a page that only its owner may read, or a file with nothing but the share. Raises ConfigError, UsageError."""
    text = fetch_secret(SecretRef(file=str(file.absolute()))).decode("utf-8", "replace")
    match = _SHARE.search(text)
    written = match["value"] if match else text
    register_secret(written.encode())
    try:
        return Share.decode(written)
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", next_step=error.next_step) from None


def combine_shares(files: Sequence[Path], password_file: Path) -> Share:
    """The password into a new file, 0600. Raises UsageError for too few shares, for a wrong one, and when the file is
    there. Returns one of the shares, for what it says of its set."""
    if password_file.exists():
        raise UsageError(
            f"{password_file} exists; nothing was written", next_step="name a file that does not exist yet"
        )
    shares = [read_share(file) for file in files]
    password = combine(shares)
    register_secret(password)
    _write(password_file, password.decode() + "\n")
    return shares[0]


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
