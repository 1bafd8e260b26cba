"""The configuration in force, as text for the process of a run: what stands in the files may be newer, or broken, by then."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from backupctl.config.models import Settings


def to_text(settings: Settings) -> str:
    """Everything, addresses that are secrets in themselves included: for a pipe to our own child and nothing else."""
    values = settings.model_dump(mode="json", by_alias=True)
    written = {name: moment.isoformat() for name, moment in settings.written.items()}
    return json.dumps({"path": str(settings.path), "base": str(settings.base), "written": written, "settings": values})


def from_text(text: str) -> Settings:
    """The inverse of `to_text`."""
    found = json.loads(text)
    settings = Settings.model_validate(found["settings"])
    written = {name: datetime.fromisoformat(moment) for name, moment in found["written"].items()}
    return settings.model_copy(update={"path": Path(found["path"]), "base": Path(found["base"]), "written": written})
