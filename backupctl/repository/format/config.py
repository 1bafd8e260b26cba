"""The repository's `config`: version, id and chunker polynomial."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from backupctl.repository.format import FormatError
from backupctl.repository.format.gojson import load_object
from backupctl.repository.format.polynomial import DEGREE, is_irreducible, random_polynomial


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    id: str
    chunker_polynomial: int
    version: int = 2


def new_config() -> RepositoryConfig:
    return RepositoryConfig(id=os.urandom(32).hex(), chunker_polynomial=random_polynomial())


def encode_config(config: RepositoryConfig) -> bytes:
    fields = {"version": config.version, "id": config.id, "chunker_polynomial": f"{config.chunker_polynomial:x}"}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_config(data: bytes) -> RepositoryConfig:
    """Raises FormatError, also for a polynomial that is not irreducible. Version 1 knows no compression; it is read only."""
    fields = load_object(data)
    version, repository_id, text = fields.get("version"), fields.get("id"), fields.get("chunker_polynomial")
    if type(version) is not int or version not in (1, 2):
        raise FormatError(f"repository version {str(version)[:20]!r} is not supported, only 2, and 1 for reading")
    if not isinstance(repository_id, str) or not repository_id or not isinstance(text, str):
        raise FormatError("the config lacks id or chunker polynomial")
    try:
        polynomial = int(text, 16) if len(text) <= 16 else 0
    except ValueError:
        polynomial = 0
    if not 1 <= polynomial.bit_length() - 1 <= DEGREE or not is_irreducible(polynomial):
        raise FormatError(f"invalid chunker polynomial {text[:40]!r}")
    return RepositoryConfig(repository_id, polynomial, version)
