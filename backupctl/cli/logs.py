"""The log, as configuration asks for it: console or JSON lines, to standard error, the journal, syslog or a file. Secrets that
were fetched are hidden in every line, and a run's id stands in each that its process writes.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupctl.clock import iso
from backupctl.errors import ConfigError
from backupctl.hosts.process import redact

if TYPE_CHECKING:
    from backupctl.cli.output import Output
    from backupctl.config.logging import LogSettings

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
MESSAGE_BYTES = 32 << 10  # a datagram to the journal must stay below the socket's limit
LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "problem": logging.WARNING, "check": logging.WARNING}
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

_bound: dict[str, str] = {}


def bind(**fields: str) -> None:
    """From now on every line of this process has these fields, such as the run's id."""
    _bound.update({name: value for name, value in fields.items() if value})


class _Fields(logging.Filter):
    """Puts what is bound into each record, unless the record says otherwise itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        own = {"run": record.__dict__["run"]} if "run" in record.__dict__ else {}
        record.__dict__["fields"] = {**_bound, **record.__dict__.get("fields", {}), **own}
        return True


def message_of(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return redact(text)


class JsonFormatter(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `logger`, `message`, `pid`, and what is bound, such as `run`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": iso(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            "pid": record.process,
            **_plain(record),
        }
        return json.dumps(line, ensure_ascii=True)


class ConsoleFormatter(logging.Formatter):
    def __init__(self, *, dated: bool) -> None:
        super().__init__()
        self._dated = dated

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _plain(record).items() if name in ("run", "job"))
        date = f"{iso(datetime.fromtimestamp(record.created, UTC).replace(microsecond=0))} " if self._dated else ""
        text = message_of(record).replace("\n", "\n    ")
        return f"{date}{record.levelname} {record.name}: {text}{fields}"


def _plain(record: logging.LogRecord) -> dict[str, str | int | float | bool]:
    """The record's fields as far as they are words and numbers; secrets hidden."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in getattr(record, "fields", {}).items():
        if isinstance(value, bool | int | float):
            found[name] = value
        elif value is not None and name not in ("message", "time", "level", "logger", "pid"):
            found[name] = redact(iso(value) if isinstance(value, datetime) else str(value))
    return found


class JournalHandler(logging.Handler):
    """The journal's own protocol: one datagram for each entry, https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Raises ConfigError
    when there is no journal."""

    def __init__(self, address: str = JOURNAL) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"there is no journal at {address}: {error.strerror}",
                next_step="set `log: {to: stderr}`, or run under systemd",
            ) from None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
            fields: dict[str, str] = {
                "MESSAGE": message_of(record),
                "PRIORITY": str(priority),
                "SYSLOG_IDENTIFIER": "backupctl",
                "LOGGER": record.name,
            }
            fields |= {f"BACKUPCTL_{name.upper()}": str(value) for name, value in _plain(record).items()}
            self._socket.send(b"".join(_entry(name, value) for name, value in fields.items()))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _entry(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")[:MESSAGE_BYTES]
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


class PrivateFileHandler(logging.handlers.WatchedFileHandler):
    """Made 0640; opened anew when logrotate has moved it away."""

    def _open(self) -> Any:
        file = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        return os.fdopen(file, "a", encoding="utf-8", errors="backslashreplace")


def apply(settings: LogSettings, output: Output) -> None:
    """From now on the log goes where `settings` say, and so does what `output` says beside its results. Left as it is where
    nothing was configured. Raises ConfigError for a place that cannot be written."""
    if settings.to == "stderr" and settings.form == "console":
        return
    handler = _handler(settings)
    handler.addFilter(_Fields())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    level = logging.DEBUG if output.verbose else logging.getLevelNamesMapping()[settings.level.upper()]
    logging.getLogger("backupctl").setLevel(level)
    # what libraries do is nobody's business until it goes wrong: one of them has a line for each minute of `serve`
    root.setLevel(level if output.verbose else max(level, logging.WARNING))
    # what is said twice in one place is said once: standard error is the log then, or the journal that systemd makes of it
    output.talks = settings.to not in ("stderr", "journal") or (settings.to == "journal" and not _is_in_journal())
    output.record = _record


def _handler(settings: LogSettings) -> logging.Handler:
    formatter = JsonFormatter() if settings.form == "json" else ConsoleFormatter(dated=settings.to != "syslog")
    handler: logging.Handler
    if settings.to == "journal":
        return JournalHandler()
    if settings.to == "syslog":
        if not Path(SYSLOG).exists():
            raise ConfigError(f"there is no syslog at {SYSLOG}", next_step="set `log: {to: stderr}`, or start a syslog")
        syslog = logging.handlers.SysLogHandler(SYSLOG)
        syslog.ident = f"backupctl[{os.getpid()}]: "
        handler = syslog
    elif settings.to == "file":
        assert settings.file is not None
        try:
            settings.file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            handler = PrivateFileHandler(settings.file)
        except OSError as error:
            raise ConfigError(
                f"the log {settings.file} cannot be written: {error.strerror}",
                next_step="correct `log.file`, or its directory",
            ) from None
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    return handler


def _is_in_journal() -> bool:
    """Whether our standard error is the journal's already; systemd tells which file that is."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return (str(info.st_dev), str(info.st_ino)) == (device, inode)


def _record(kind: str, message: str, fields: dict[str, Any]) -> None:
    log = logging.getLogger(f"backupctl.{kind}")
    log.log(LEVELS.get(kind, logging.INFO), "%s", message, extra={"fields": {**fields, "event": kind}})
