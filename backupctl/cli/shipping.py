"""What belongs to an installation beside the program: units, log rotation, man pages, completion. Made here, from one source, so
that they fit the version that made them."""

from __future__ import annotations

import os
import re
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from click.shell_completion import get_completion_class

from backupctl.cli.main import cli
from backupctl.cli.manual import pages
from backupctl.errors import UsageError

TEMPLATES = Path(__file__).parent / "templates"
UNITS = (
    "backupctl.service",
    "backupctl-worker.service",
    *(f"backupctl-{name}.{kind}" for name in ("due", "status", "doctor") for kind in ("service", "timer")),
)
KINDS = ("systemd", "logrotate", "man", "completion")
SHELLS = {
    "bash": "usr/local/share/bash-completion/completions/backupctl",
    "zsh": "usr/local/share/zsh/site-functions/_backupctl",
    "fish": "usr/local/share/fish/vendor_completions.d/backupctl.fish",
}
VARIABLE = "_BACKUPCTL_COMPLETE"


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are on the machine that the files are for."""

    program: str = field(default_factory=lambda: os.path.abspath(sys.argv[0]))  # noqa: PTH100  a link must stay one
    config: str = "/etc/backupctl/backupctl.yaml"
    user: str = "backupctl"
    state: str = "/var/lib/backupctl"
    writable: tuple[str, ...] = ("/srv/backup", "/srv/staging", "/var/lib/prometheus/node-exporter")
    textfile: str = "/var/lib/prometheus/node-exporter/backupctl.prom"
    listen: str = "127.0.0.1:8642"

    def __post_init__(self) -> None:
        for value in (self.program, self.config, self.user, self.state, *self.writable, self.textfile, self.listen):
            if not re.fullmatch(r"[\w./:@+,\[\]-]*", value):
                raise UsageError(f"{value!r} cannot stand in a unit", next_step="use plain names without spaces")


def files(place: Place, kinds: tuple[str, ...] = KINDS) -> dict[str, str]:
    """Path below the root → content."""
    found: dict[str, str] = {}
    if "systemd" in kinds:
        found |= {f"etc/systemd/system/{name}": _rendered(name, place) for name in UNITS}
    if "logrotate" in kinds:
        found["etc/logrotate.d/backupctl"] = _rendered("logrotate", place)
    if "man" in kinds:
        found |= {f"usr/local/share/man/man1/{name}": text for name, text in pages().items()}
    if "completion" in kinds:
        found |= {path: completion_script(shell) for shell, path in SHELLS.items()}
    return found


def completion_script(shell: str) -> str:
    found = get_completion_class(shell)
    assert found is not None
    return found(cli, {}, "backupctl", VARIABLE).source()


def write(root: Path, path: str, text: str, *, mode: int = 0o644) -> bool:
    """Below `root`, whole or not at all. False when it says that already."""
    target = root / path
    if target.is_file() and target.read_text() == text:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        beside.write_text(text)
        beside.chmod(mode)
        beside.rename(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return True


def _rendered(name: str, place: Place) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701  units are no HTML, and what goes in is checked by Place
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    fields = {key: getattr(place, key) for key in place.__dataclass_fields__} | {"writable": list(place.writable)}
    return environment.get_template(f"{name}.j2").render(fields)
