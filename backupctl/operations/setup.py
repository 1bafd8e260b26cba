"""`init`: make the repositories that the configuration names, and the keys they have not got yet."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from backupctl.errors import Exists
from backupctl.hosts.secret import SecretRef
from backupctl.operations.browse import repository_names
from backupctl.operations.context import Context
from backupctl.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Created:
    """`key_file` is the file that was generated, if one was: lose it and the backups are lost."""

    repository: str
    location: str
    repository_id: str
    key_file: str
    existed: bool


def create_repository(context: Context, name: str) -> Created:
    """Create one repository. A password file that does not exist is generated (0600) first. A repository that is there
    and opens with this password is left as it is; one that does not open raises WrongKeyError."""
    repository_names(context, [name])
    key_file = generate_key(context.settings.repositories[name].password)
    store = context.resources.store(name, create=True)
    try:
        made = Repository.create(store, context.resources.password(name), clock=context.clock)
    except Exists:
        opened = context.resources.repository(name)
        return Created(name, store.location, opened.id, key_file, existed=True)
    context.audit("repository.created", name, repository_id=made.id)
    return Created(name, store.location, made.id, key_file, existed=False)


def generate_key(reference: SecretRef) -> str:
    """A new password in the file that is referred to, when there is none yet; the file's path, or "" for nothing done."""
    if reference.file is None or Path(reference.file).exists():
        return ""
    path = Path(reference.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    # 33 random bytes, 44 characters of base64: no white space, so restic reads the same password from the same file
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(33) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return str(path)
