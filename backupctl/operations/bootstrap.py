"""A new orchestrator from recovery kits alone, when the old one is gone: a configuration, the keys, and the catalog again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupctl.errors import UsageError

NAME = re.compile(r'^RECOVERY KIT of the backupctl repository "(?P<value>[\w.-]+)"', re.MULTILINE)
ID = re.compile(r"^id +(?P<value>[0-9a-f]{64})$", re.MULTILINE)
PASSWORD = re.compile(r"^password   (?P<value>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kit:
    """What a recovery kit says. `entry` is the repository as the configuration has it."""

    repository: str
    id: str
    entry: dict[str, Any]
    password: str

    def __repr__(self) -> str:
        return f"Kit({self.repository})"  # never the password

    @classmethod
    def read(cls, text: str) -> Kit:
        """Raises UsageError for what is no recovery kit, or one from before they could be read by a program."""
        name, repository_id, password = (_found(pattern, text) for pattern in (NAME, ID, PASSWORD))
        entry = _found(re.compile(rf"^ +{re.escape(name)}: (?P<value>\{{.*\}})$", re.MULTILINE), text) if name else ""
        try:
            options = json.loads(entry)
        except ValueError:
            options = None
        if not name or not repository_id or not password or not isinstance(options, dict):
            raise UsageError(
                "this is no recovery kit that a program can read",
                next_step="type the place and the password into a backupctl.yaml by hand, as the page says, then: "
                "backupctl catalog rebuild",
            )
        return cls(name, repository_id, options, password)


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match["value"] if match else ""


def write_bootstrap(kits: Sequence[Kit], directory: Path, *, credentials: Path | None = None) -> Path:
    """`backupctl.yaml` and one key file for each kit, 0600, in `directory`; the configuration's path. `credentials`: the file
    that the storage credentials are in on this machine. Never overwrites: raises UsageError when one is there."""
    main = directory / "backupctl.yaml"
    keys = {directory / f"{kit.repository}.key": kit.password for kit in kits}
    for path in (main, *keys):
        if path.exists():
            raise UsageError(f"{path} exists; nothing was written", next_step="choose an empty directory: --into DIR")
    entries = {kit.repository: _here(kit.entry, credentials) for kit in kits}
    if len(entries) < len(kits):
        raise UsageError("two kits are of the same repository", next_step="give each repository's newest kit once")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, password in keys.items():
        _write(path, password + "\n")
    lines = ["version: 1", "repositories:"]
    lines += [f"  {name}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in entries.items()]
    _write(main, "\n".join([*lines, ""]))
    return main


def _here(entry: dict[str, Any], credentials: Path | None) -> dict[str, Any]:
    place = entry.get("storage", {}).get("s3")
    if credentials is None or not isinstance(place, dict):
        return entry
    return entry | {"storage": {"s3": place | {"credentials": {"file": str(credentials.absolute())}}}}


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
