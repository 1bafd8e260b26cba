"""What must be the same on every machine of a fleet: the program, its dispatcher, and what the configuration says."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata

from backupctl import __version__
from backupctl.config.models import Settings

_OWN = {"catalog", "cache"}
"""What may differ: a machine's own way to the catalog, and where it keeps its cache."""


def dispatcher() -> str:
    return metadata.version("procrastinate")


def release() -> str:
    return f"{__version__}, procrastinate {dispatcher()}"


def digest(settings: Settings) -> str:
    """Equal where the configuration says the same. Paths are absolute in it: the files stand in the same place on every
    machine."""
    values = settings.model_dump(mode="json", by_alias=True, exclude=_OWN)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
