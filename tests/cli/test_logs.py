"""The log goes where it is asked to, in the form that it is asked for, with the run's id, and never with a secret."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
import pytest

from backupctl.cli import logs
from backupctl.cli.main import cli, output_of
from backupctl.cli.output import Output
from backupctl.config.logging import LogSettings
from backupctl.errors import ConfigError
from backupctl.hosts.process import register_secret
from tests.end_to_end.site import Site


@pytest.fixture(autouse=True)
def own_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The root logger and what is bound, as they were."""
    root, ours = logging.getLogger(), logging.getLogger("backupctl")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    monkeypatch.setattr(logs, "_bound", {})
    root.handlers = []
    yield
    for one in root.handlers:
        one.close()
    root.handlers = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def to_file(tmp_path: Path, form: str = "json", level: str = "info") -> Path:
    file = tmp_path / "logs" / "backupctl.log"
    settings = LogSettings.model_validate({"to": "file", "format": form, "file": file, "level": level})
    logs.apply(settings, Output())
    return file


def test_a_line_is_an_object_with_the_run_of_its_process(tmp_path: Path) -> None:
    file = to_file(tmp_path)
    logs.bind(run="run-7", job="")
    logging.getLogger("backupctl.x").warning("disk %s", "full")
    logging.getLogger("backupctl.x").info("another", extra={"run": "run-8"})
    logging.getLogger("backupctl.x").debug("not kept")
    logging.getLogger("alembic.runtime").info("setup plugin")  # a library's doings are not ours to tell
    first, second = lines(file)
    assert (first["level"], first["logger"], first["message"]) == ("warning", "backupctl.x", "disk full")
    assert (first["run"], first["pid"], "job" in first) == ("run-7", os.getpid(), False)
    assert datetime.fromisoformat(str(first["time"])).utcoffset() is not None
    assert second["run"] == "run-8"
    assert file.stat().st_mode & 0o777 == 0o640


def test_what_is_said_is_in_the_log_too_and_a_secret_is_not(tmp_path: Path) -> None:
    register_secret("hunter2-in-the-log")
    file = tmp_path / "l"
    output = Output()
    logs.apply(LogSettings.model_validate({"to": "file", "format": "json", "file": file}), output)
    output.event("problem", "cannot read with hunter2-in-the-log", path="/x/hunter2-in-the-log", source="www")
    try:
        raise ValueError("hunter2-in-the-log")
    except ValueError:
        logging.getLogger("backupctl.x").exception("went wrong")
    told, failed = lines(file)
    assert (told["level"], told["source"], told["path"]) == ("warning", "www", "/x/***")
    assert "Traceback" in str(failed["message"])
    assert "hunter2" not in file.read_text()


def test_a_file_that_was_rotated_is_opened_anew(tmp_path: Path) -> None:
    file = to_file(tmp_path)
    logging.getLogger("backupctl.a").info("before")
    file.rename(file.with_suffix(".1"))
    logging.getLogger("backupctl.a").info("after")
    assert [line["message"] for line in lines(file)] == ["after"]


def test_console_lines_are_one_each_with_the_run(tmp_path: Path) -> None:
    file = to_file(tmp_path, "console")
    logs.bind(run="run-7")
    logging.getLogger("backupctl.x").error("one\ntwo")
    first, second = file.read_text().splitlines()
    assert first.endswith("Z ERROR backupctl.x: one")
    assert second == "    two run=run-7"


def test_the_journal_gets_its_own_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket in the journal's place, read as systemd.io/JOURNAL_NATIVE_PROTOCOL says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        handler = logs.JournalHandler(str(tmp_path / "journal"))
        handler.addFilter(logs._Fields())
        root = logging.getLogger()
        root.handlers = [handler]
        logs.bind(run="run-7")
        logging.getLogger("backupctl.x").error("one\ntwo ☃")
        logging.getLogger("backupctl.x").warning("x" * 100_000)
        first, second = parsed(journal.recv(1 << 20)), parsed(journal.recv(1 << 20))
    assert first == {
        "MESSAGE": "one\ntwo ☃",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "backupctl",
        "LOGGER": "backupctl.x",
        "BACKUPCTL_RUN": "run-7",
    }
    assert (second["PRIORITY"], len(second["MESSAGE"])) == ("4", logs.MESSAGE_BYTES)
    with pytest.raises(ConfigError, match="no journal"):
        logs.JournalHandler(str(tmp_path / "nothing"))


def parsed(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        name, sign, rest = data.partition(b"=") if b"=" in data.split(b"\n", 1)[0] else data.partition(b"\n")
        if sign == b"=":
            value, _, data = rest.partition(b"\n")
        else:
            size = int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_syslog_gets_the_program_and_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SYSLOG", str(tmp_path / "log"))
    with pytest.raises(ConfigError, match="no syslog"):
        logs.apply(LogSettings.model_validate({"to": "syslog"}), Output())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        logs.apply(LogSettings.model_validate({"to": "syslog", "format": "json"}), Output())
        logs.bind(run="run-7")
        logging.getLogger("backupctl.x").error("full")
        text = syslog.recv(1 << 16).decode()
    head, _, line = text.rstrip("\0").partition(": ")
    assert head == f"<11>backupctl[{os.getpid()}]"  # user.err
    assert json.loads(line)["run"] == "run-7"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        logs.apply(LogSettings.model_validate({"to": "file", "file": tmp_path / "file" / "log"}), Output())
    with pytest.raises(ValueError, match="belongs to"):
        LogSettings.model_validate({"to": "stderr", "file": "/x"})


def test_where_no_log_is_asked_for_a_warning_reads_like_what_a_command_says() -> None:
    logging.getLogger().handlers = []  # without those of pytest; `own_root` puts back what was
    with click.Context(cli, obj={}):
        output_of()
    (handler,) = logging.getLogger().handlers
    record = logging.LogRecord("backupctl.x", logging.WARNING, "", 0, "disk %s", ("full",), None)
    assert handler.format(record) == "warning: disk full"


def test_a_whole_run_is_in_the_log_under_its_id_and_standard_error_says_each_thing_once(tmp_path: Path) -> None:
    site = Site.create(tmp_path)
    site.configure(main="log: {to: stderr, format: json}\n")
    site.run("init")
    said = site.run("run", "--json")
    run = said.line("finished")["run"]
    logged = [json.loads(line) for line in said.err.splitlines()]
    assert {(line.get("run"), line.get("job")) for line in logged} == {(run, "site")}
    finished = [line for line in logged if line["event"] == "finished"]
    assert (finished[0]["state"], finished[0]["exit_code"]) == ("complete", 0)
