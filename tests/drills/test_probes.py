from __future__ import annotations

import hashlib
import http.server
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.config.drilling import ProbeSettings
from backupctl.drills.probes import RestoredSystem, run_probes
from backupctl.errors import CouldNotRunError, UnreachableError, UserError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Completed
from backupctl.sources.protocol import CheckResult, Instance


class Answering:
    """A database source that answers every query alike."""

    def __init__(self, answer: list[list[str]] | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        self.asked.append((database, sql))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def system(tmp_path: Path, **answers: Any) -> RestoredSystem:
    host, room = LocalHost("staging"), os.fsencode(tmp_path)
    databases = {
        name: (source, Instance("sqlite", host, room + b"/db0", "3", {"port": "5433"}), [f"{name}.db"])
        for name, source in answers.items()
    }
    return RestoredSystem(host, room, room + b"/files", databases)


def probe(restored: RestoredSystem, **settings: Any) -> CheckResult:
    (check,) = run_probes([ProbeSettings.model_validate(settings)], restored, SystemClock(), lambda: None)
    assert check.level == 5
    return check


@pytest.mark.parametrize(
    ("answer", "wanted", "ok"),
    [
        ("12", {"at_least": 1}, True),
        ("0", {"at_least": 1}, False),
        ("12", {"at_most": 11.5}, False),
        ("12", {"at_least": 12, "at_most": 12}, True),
        ("12.0", {"equals": 12}, True),
        ("yes", {"equals": "yes"}, True),
        ("no", {"equals": "yes"}, False),
        ("nan", {"at_least": 1}, False),
        ("many", {"at_most": 1}, False),
        ("", {"equals": 0}, False),
    ],
)
def test_sql_compares_the_first_value(tmp_path: Path, answer: str, wanted: dict[str, Any], ok: bool) -> None:
    check = probe(system(tmp_path, site=Answering([[answer]])), sql={"query": "select 1", **wanted})
    assert (check.ok, check.actual) == (ok, answer)


def test_sql_without_a_row_is_a_failed_check(tmp_path: Path) -> None:
    check = probe(system(tmp_path, site=Answering([])), sql={"query": "select 1", "equals": 1})
    assert (check.ok, check.expected, check.actual) == (False, "1", "no row")


def test_sql_that_errors_is_a_failed_check(tmp_path: Path) -> None:
    restored = system(tmp_path, site=Answering(UserError("no such table: articles")))
    check = probe(restored, sql={"query": "select count(*) from articles", "at_least": 1})
    assert not check.ok
    assert "no such table: articles" in check.actual


def test_sql_finds_its_source_by_the_database(tmp_path: Path) -> None:
    a, b = Answering([["1"]]), Answering([["2"]])
    assert probe(system(tmp_path, a=a, b=b), sql={"query": "q", "database": "b.db", "equals": 2}).ok
    assert (a.asked, b.asked) == ([], [("b.db", "q")])


def test_sql_that_could_mean_several_sources_says_so(tmp_path: Path) -> None:
    restored = system(tmp_path, a=Answering([["1"]]), b=Answering([["1"]]))
    check = probe(restored, sql={"query": "q", "equals": 1})
    assert not check.ok
    assert "a, b" in check.actual
    assert probe(restored, sql={"source": "a", "query": "q", "equals": 1}).ok
    assert not probe(restored, sql={"source": "gone", "query": "q", "equals": 1}).ok


def test_a_host_that_is_gone_is_no_failed_check(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        probe(system(tmp_path, site=Answering(UnreachableError("ssh"))), sql={"query": "q", "equals": 1})


def test_a_command_sees_where_things_are(tmp_path: Path) -> None:
    names = ("DRILL_DIRECTORY", "DRILL_RESTORED", "DRILL_SITE_DB_PORT", "DRILL_SITE_DB_KIND")
    program = f"import os; print(*[os.environ[name] for name in {names}])"
    restored = system(tmp_path, **{"site-db": Answering([])})
    check = probe(
        restored,
        command={"argv": [sys.executable, "-c", program], "expect_output": f"{tmp_path} {tmp_path}/files 5433 sqlite"},
    )
    assert check.ok, check.detail


@pytest.mark.parametrize(
    ("command", "actual"),
    [
        ({"argv": [sys.executable, "-c", "raise SystemExit(3)"]}, "exit 3"),
        ({"argv": ["/nonexistent/program"]}, "exit 127"),
        ({"argv": [sys.executable, "-c", "print('b')"], "expect_output": "a"}, "exit 0, output without it"),
    ],
)
def test_a_command_that_says_no_is_a_failed_check(tmp_path: Path, command: dict[str, Any], actual: str) -> None:
    check = probe(system(tmp_path), command=command)
    assert (check.ok, check.actual) == (False, actual)


def test_a_command_that_hangs_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupctl.drills.probes.PROBE_SECONDS", 0.5)
    check = probe(system(tmp_path), command={"argv": [sys.executable, "-c", "import time; time.sleep(60)"]})
    assert not check.ok
    assert "error" in check.actual


def test_an_expected_exit_other_than_zero_is_ok(tmp_path: Path) -> None:
    assert probe(system(tmp_path), command={"argv": [sys.executable, "-c", "raise SystemExit(3)"], "expect_exit": 3}).ok


@pytest.fixture
def url() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 503)
            self.end_headers()
            self.wfile.write("文章 articles".encode())

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_looks_at_status_and_body(tmp_path: Path, url: str) -> None:
    restored = system(tmp_path)
    assert probe(restored, http={"url": url, "contains": "文章"}).ok
    missing = probe(restored, http={"url": url, "contains": "absent"})
    assert (missing.ok, missing.actual) == (False, "status 200, body without it")
    down = probe(restored, http={"url": url + "down"})
    assert (down.ok, down.expected, down.actual) == (False, "status 200", "status 503")
    assert probe(restored, http={"url": url + "down", "expect": 503}).ok


def test_http_that_nobody_answers_is_a_failed_check(tmp_path: Path) -> None:
    check = probe(system(tmp_path), http={"url": "http://127.0.0.1:1/"})
    assert not check.ok
    assert "refused" in check.actual


VIEWED = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        ("2026-11-20 01:30:00", True),
        ("2026-11-20T09:30:00+08:00", True),
        (str((VIEWED - timedelta(minutes=59)).timestamp()), True),
        ("2026-11-20 00:59:59", False),
        ("2026-11-20 02:00:01", True),
        ("yesterday", False),
        ("", False),
    ],
)
def test_the_newest_change_is_at_most_the_rpo_older_than_the_backup(tmp_path: Path, answer: str, ok: bool) -> None:
    restored = replace(system(tmp_path, site=Answering([[answer]])), viewed={"site": VIEWED}, rpo=timedelta(hours=1))
    check = probe(restored, fresh={"query": "select max(at) from heartbeats"})
    assert check.ok is ok, check
    assert len(check.evidence) == 64
    if ok:
        assert restored.heartbeats["site"] <= VIEWED + timedelta(seconds=1)


def test_a_file_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "files" / "www" / "srv").mkdir(parents=True)
    (tmp_path / "files" / "www" / "srv" / "a.html").write_text("hello")
    digest = hashlib.sha256(b"hello").hexdigest()
    restored = system(tmp_path)
    good = probe(restored, file={"source": "www", "path": "/srv/a.html", "sha256": digest})
    assert (good.ok, good.evidence, good.detail) == (True, digest, "5 bytes")
    other = probe(restored, file={"source": "www", "path": "/srv/a.html", "sha256": "0" * 64})
    assert (other.ok, other.actual) == (False, f"SHA-256 {digest}")
    assert probe(restored, file={"source": "www", "path": "/srv/b.html", "sha256": digest}).actual == "no such file"
    with pytest.raises(ValueError, match="must name a file"):
        ProbeSettings.model_validate({"file": {"source": "www", "path": "/srv/../../a", "sha256": digest}})


class Scanners(LocalHost):
    """A host that has some scanners: program → (exit code, what it prints)."""

    def __init__(self, **programs: tuple[int, str]) -> None:
        super().__init__("staging")
        self.programs = programs

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        code, said = self.programs.get(argv[0], (127, ""))
        if "--version" in argv and code != 127:
            code, said = 0, "4.2.3" if argv[0] == "yara" else "ClamAV 1.4.3/27800/Fri Nov 20 09:00:00 2026"
        return Completed(tuple(argv), code, said.encode(), "")


@pytest.mark.parametrize(
    ("programs", "options", "ok", "actual"),
    [
        ({}, {}, True, "not performed: no clamdscan; no clamscan"),
        ({"clamdscan": (0, "")}, {}, True, "nothing found"),
        ({"clamdscan": (1, "/x/a.exe: Eicar FOUND\n")}, {}, False, "1 hits"),
        ({"clamdscan": (2, "ERROR: no clamd"), "clamscan": (0, "")}, {}, True, "nothing found"),
        (
            {"clamdscan": (2, "ERROR: no clamd")},
            {},
            True,
            "not performed: clamdscan: exit 2: ERROR: no clamd; no clamscan",
        ),
        ({"yara": (0, "rule /x/a.exe\n")}, {"engine": "yara", "rules": "/r.yar"}, False, "1 hits"),
        (
            {"yara": (1, "no rules")},
            {"engine": "yara", "rules": "/r.yar"},
            True,
            "not performed: yara: exit 1: no rules",
        ),
    ],
)
def test_only_a_scanner_says_that_nothing_was_found(
    tmp_path: Path, programs: dict[str, tuple[int, str]], options: dict[str, str], ok: bool, actual: str
) -> None:
    (tmp_path / "files" / "www").mkdir(parents=True)
    (tmp_path / "files" / "www" / "a.exe").touch()
    restored = replace(system(tmp_path), host=Scanners(**programs))
    check = probe(restored, scan=options)
    assert (check.ok, check.actual) == (ok, actual)
    assert check.performed is not actual.startswith("not performed")
    if not check.performed:
        with pytest.raises(CouldNotRunError, match="could not be performed"):
            probe(restored, scan={**options, "required": True})


def test_nothing_restored_is_not_scanned(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    restored = replace(system(tmp_path), host=Scanners(clamdscan=(0, "")))
    assert probe(restored, scan={}).actual == "not performed: no files were restored"


class Examined(Answering):
    def __init__(self, *results: CheckResult) -> None:
        super().__init__([])
        self.results = results

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        return list(self.results)


def test_the_checkers_of_the_databases_are_asked(tmp_path: Path) -> None:
    bad = CheckResult("pg_amcheck of b", "no corruption", "exit 2", False, 4, evidence="e" * 64)
    check = probe(system(tmp_path, site=Examined(bad), other=Examined()), integrity={})
    assert (check.name, check.ok, check.level, check.evidence) == ("site: pg_amcheck of b", False, 5, "e" * 64)
    assert probe(system(tmp_path, cache=Examined()), integrity={}).actual.startswith("not performed")
