"""Drills from request to result, with real files, a real SQLite database and this machine as the staging host."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupctl.drills import processes, scenario
from backupctl.drills.model import DrillResult, Phase
from backupctl.drills.run import run_drill
from backupctl.drills.sandbox import create
from backupctl.errors import CouldNotRunError, DamageError, InterruptedRunError, UserError
from backupctl.hosts import placing
from backupctl.hosts.local import LocalHost
from backupctl.hosts.staging import register
from backupctl.sources.protocol import CheckResult, Instance
from backupctl.sources.sqlite import SqliteSource
from tests.drills.helpers import CLOCK, DRILL_ID, Bench, ago

COUNT = {"sql": {"query": "select count(*) from articles", "at_least": 500}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path).with_files().with_database().registered().back_up()


def failed(result: DrillResult) -> list[str]:
    return [check.name for check in result.checks if not check.ok]


def is_alive(pid: int) -> bool:
    """A process that ended and that nobody waited for (its parent is gone) is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_named(result: DrillResult, part: str) -> CheckResult:
    (found,) = [check for check in result.checks if part in check.name]
    return found


def test_a_good_backup_passes_with_everything_measured(bench: Bench) -> None:
    request = bench.request(
        probes=[
            COUNT,
            {"command": {"argv": ["sh", "-c", 'test -d "$DRILL_RESTORED/uploads"']}},
        ]
    )
    request.measured = [Phase("open repository", 0.25)]
    told: list[tuple[str, int, int | None]] = []
    result = run_drill(request, clock=CLOCK, progress=lambda *facts: told.append(facts))
    assert (result.verdict, result.level, result.reasons) == ("pass", 5, [])
    assert failed(result) == []
    names = [check.name for check in result.checks]
    assert any("table site.db.articles" in name for name in names)
    assert any("uploads: " in name and "entries" in name for name in names)
    assert [phase.name for phase in result.phases] == [
        "decide", "open repository", "prepare sandbox", "boot", "load", "compare", "restore files", "probe", "clean up",
    ]  # fmt: skip
    assert result.rto_seconds is not None
    assert result.rto_seconds >= 0.25
    assert result.rto_seconds <= sum(phase.seconds for phase in result.phases if phase.name != "clean up") + 1
    assert result.rpo_seconds is not None
    assert 0 <= result.rpo_seconds < 60
    assert result.restored_bytes > 700_000
    assert told[-1][0] == "clean up"
    assert {"load", "restore files", "probe"} <= {phase for phase, _, _ in told}
    assert result.cleanup.proved
    assert bench.left_behind() == []


def test_the_record_holds_all_of_the_result(bench: Bench) -> None:
    result = bench.drill(probes=[COUNT])
    record = json.loads(json.dumps(result.to_record()))
    assert record["schema"] == 1
    assert DrillResult.from_record(record) == result


@pytest.mark.parametrize("record", [{}, {"schema": 2}, {"schema": 1, "verdict": "pass"}])
def test_a_record_of_something_else_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(DamageError, match="no drill record"):
        DrillResult.from_record(record)


def test_one_row_that_differs_is_named_with_its_table(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    load = SqliteSource.load

    def plant(self: SqliteSource, instance: Instance, files: Any, **options: Any) -> list[str]:
        notes = load(self, instance, files, **options)
        with sqlite3.connect(os.path.join(instance.directory, b"site.db")) as connection:
            connection.execute("update articles set title = 'forged' where id = 250")
        connection.close()
        return notes

    monkeypatch.setattr(SqliteSource, "load", plant)
    result = bench.drill(probes=[COUNT])
    assert (result.verdict, result.level) == ("fail", 3)
    assert failed(result) == ["site-db: table site.db.articles"]
    assert any("table site.db.articles" in reason for reason in result.reasons)
    assert result.rto_seconds is None
    assert result.rpo_seconds is None
    assert result.cleanup.proved


def test_a_missing_table_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = bench.record["sources"]["site-db"]["fingerprint"]["databases"]["site.db"]["tables"]
    tables["ghosts"] = dict(next(iter(tables.values())))
    result = bench.drill()
    assert result.verdict == "fail"
    assert failed(result) == ["site-db: table site.db.ghosts"]
    assert check_named(result, "ghosts").actual == "missing"


def test_a_file_that_differs_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = vars(scenario)["restore"]

    def plant(*arguments: Any, **options: Any) -> Any:
        stats = restore(*arguments, **options)
        (path,) = bench.scratch.glob("drill-*/files/uploads/**/a.html")
        path.write_text("<p>hullo</p>")
        return stats

    monkeypatch.setattr(scenario, "restore", plant)
    result = bench.drill()
    assert (result.verdict, result.level) == ("fail", 3)
    assert any("content of" in name and "a.html" in name for name in failed(result))


def damage_blobs(bench: Bench, minimum_bytes: int) -> None:
    """Flip one byte in the middle of every large pack."""
    for name in [info.name for info in bench.store.list("data/")]:
        data = bytearray(bench.store.get(name))
        if len(data) >= minimum_bytes:
            data[len(data) // 2] ^= 1
            bench.store.delete(name)
            bench.store.put(name, bytes(data))


def test_a_damaged_blob_fails_and_the_other_source_is_still_tried(bench: Bench) -> None:
    damage_blobs(bench, 100_000)
    result = bench.drill()
    assert result.verdict == "fail"
    assert result.reasons
    assert result.rpo_seconds is None
    tried = {check.name.partition(":")[0] for check in result.checks}
    assert tried | {reason.partition(":")[0] for reason in result.reasons} == {"uploads", "site-db"}
    assert result.cleanup.proved


def test_a_lost_pack_fails(bench: Bench) -> None:
    for name in [info.name for info in bench.store.list("data/")]:
        bench.store.delete(name)
    result = bench.drill()
    assert (result.verdict, result.level) == ("fail", 0)
    assert {reason.partition(":")[0] for reason in result.reasons} >= {"site-db", "uploads"}, result.reasons
    assert result.cleanup.proved


def test_without_the_marker_nothing_is_touched(tmp_path: Path) -> None:
    bench = Bench(tmp_path).with_files().back_up()
    bench.scratch.mkdir()
    result = bench.drill()
    assert (result.verdict, result.level) == ("inconclusive", 0)
    assert "backupctl host register staging" in result.reasons[0]
    assert list(bench.scratch.iterdir()) == []
    assert result.cleanup.proved


def test_too_little_room_is_inconclusive_with_numbers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    request = bench.request()
    request.max_disk = 1000
    result = run_drill(request, clock=CLOCK)
    assert result.verdict == "inconclusive"
    assert "max_disk of host staging is 1000" in result.reasons[0]
    monkeypatch.setattr(LocalHost, "free_bytes", lambda self, path: 4711)
    result = bench.drill()
    assert result.verdict == "inconclusive"
    assert "4711 free" in result.reasons[0]
    assert bench.left_behind() == []


def test_scratch_around_a_source_is_refused(bench: Bench) -> None:
    request = bench.request()
    request.scratch = os.fsencode(bench.root)
    register(bench.staging, request.scratch, "staging")
    result = run_drill(request, clock=CLOCK)
    assert result.verdict == "inconclusive"
    assert "is or contains the source path" in result.reasons[0]


def test_a_staging_host_without_the_programs_is_inconclusive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(*arguments: object) -> Instance:
        raise CouldNotRunError("host staging has no sqlite3", next_step="install it")

    monkeypatch.setattr(SqliteSource, "boot", boot)
    result = bench.drill(probes=[COUNT])
    assert result.verdict == "inconclusive"
    assert result.reasons == ["site-db: boot: host staging has no sqlite3; next: install it"]
    assert check_named(result, "uploads: restore").ok  # the other source was tried all the same
    assert not [check for check in result.checks if check.level == 5]  # and no probe blamed the backup


def test_a_native_restore_that_fails_is_a_bad_backup(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> list[str]:
        raise UserError("psql: syntax error")

    monkeypatch.setattr(SqliteSource, "load", load)
    result = bench.drill()
    assert (result.verdict, result.level) == ("fail", 0)
    assert result.reasons == ["site-db: load: expected no error, found psql: syntax error"]


def test_a_full_disk_while_restoring_says_nothing_about_the_backup(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(placing, "write_at", full)
    result = bench.drill()
    assert result.verdict == "inconclusive"
    assert any("No space left on device" in reason for reason in result.reasons)


def test_a_comparison_that_says_nothing_never_passes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteSource, "compare", lambda *arguments: [])
    result = bench.drill()
    assert (result.verdict, result.level) == ("inconclusive", 3)
    assert result.reasons == ["site-db: nothing was compared with what the source held"]


def test_an_empty_job_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    bench = Bench(tmp_path, {"uploads": {"files": {"paths": [str(tmp_path / "www")]}}}).registered().back_up()
    bench.record["sources"] = {}
    request = bench.request()
    assert run_drill(request, clock=CLOCK).verdict == "fail"  # the job has a source that the snapshot lacks


def test_failed_probes_fail_the_drill(bench: Bench) -> None:
    result = bench.drill(probes=[{"sql": {"query": "select count(*) from articles", "at_least": 501}}, COUNT])
    assert (result.verdict, result.level) == ("fail", 4)
    assert failed(result) == ["sql: select count(*) from articles"]
    assert result.rpo_seconds is not None  # the content is proven all the same


def test_an_old_snapshot_is_stale_though_good(tmp_path: Path) -> None:
    bench = Bench(tmp_path, view_time=ago(hours=30)).with_files().registered().back_up()
    result = bench.drill()
    assert (result.verdict, result.level) == ("stale", 4)
    assert "nothing recent to test" in result.reasons[0]
    assert result.rpo_seconds == pytest.approx(30 * 3600, abs=60)
    assert result.rto_seconds is not None


def test_an_old_point_drilled_on_purpose_is_not_stale(tmp_path: Path) -> None:
    bench = Bench(tmp_path, view_time=ago(days=30)).with_files().registered().back_up()
    request = bench.request()
    request.newest = ago(hours=3)
    result = run_drill(request, clock=CLOCK)
    assert (result.verdict, result.reasons) == ("pass", [])


def test_no_snapshot_at_all_is_stale(bench: Bench) -> None:
    request = bench.request()
    request.snapshot = request.reader = request.fingerprint = request.manifest = None
    result = run_drill(request, clock=CLOCK)
    assert (result.verdict, result.level, result.checks) == ("stale", 0, [])
    assert result.rto_seconds is None
    assert DrillResult.from_record(result.to_record()) == result


def test_a_snapshot_from_after_the_disaster_is_refused(bench: Bench) -> None:
    request = bench.request()
    request.disaster = ago(hours=1)
    result = run_drill(request, clock=CLOCK)
    assert result.verdict == "inconclusive"
    assert "after the disaster" in result.reasons[0]


def test_a_malformed_fingerprint_is_a_bad_backup(bench: Bench) -> None:
    del bench.record["sources"]["uploads"]["data_time"]
    result = bench.drill()
    assert result.verdict == "fail"
    assert "malformed" in result.reasons[0]


def test_an_incomplete_snapshot_never_passes(bench: Bench) -> None:
    bench.record |= {"status": "incomplete", "problems": [{"source": "uploads", "path": "/srv/www/secret"}]}
    result = bench.drill()
    assert result.verdict == "fail"
    assert result.reasons == ["the snapshot is incomplete: its run had 1 problems"]


def test_a_source_that_the_snapshot_lacks_fails(bench: Bench) -> None:
    fill = bench.root / "more"
    fill.mkdir()
    bench.sources["more"] = {"files": {"paths": [str(fill)]}}
    result = bench.drill()
    assert result.verdict == "fail"
    assert "more: the job has this source, the snapshot does not hold it" in result.reasons


def test_a_source_that_the_job_forgot_is_not_passed_over(bench: Bench) -> None:
    del bench.sources["uploads"]
    result = bench.drill()
    assert result.verdict == "inconclusive"
    assert result.reasons[0].startswith("uploads: the job no longer describes this source")


def test_the_time_budget_ends_a_drill_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(self: SqliteSource, instance: Instance, files: Any, **options: Any) -> list[str]:
        instance.host.run([sys.executable, "-c", "import time; time.sleep(600)"])
        return []

    monkeypatch.setattr(SqliteSource, "load", hang)
    result = bench.drill(timeout="2s")
    assert result.verdict == "inconclusive"
    assert "time budget" in result.reasons[0]
    assert result.cleanup.proved
    assert bench.left_behind() == []


class RunsDeadline(BaseException):
    """What the worker around a drill raises when the run's own deadline comes."""


@pytest.fixture
def deadline_around() -> Iterator[Callable[[float], object]]:
    """Sets a timer of the process, as the worker does for a run with a deadline."""

    def late(number: int, frame: object) -> None:
        raise RunsDeadline

    before = signal.signal(signal.SIGALRM, late)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_deadline_around_the_drill_is_still_there_after_it(
    bench: Bench, deadline_around: Callable[[float], object]
) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    deadline_around(500)
    assert bench.drill(timeout="60s").verdict == "pass"
    assert 400 < signal.getitimer(signal.ITIMER_REAL)[0] < 500
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_deadline_around_the_drill_that_comes_first_ends_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, deadline_around: Callable[[float], object]
) -> None:
    def hang(self: SqliteSource, instance: Instance, files: Any, **options: Any) -> list[str]:
        deadline_around(0.1)
        instance.host.run([sys.executable, "-c", "import time; time.sleep(600)"])
        return []

    monkeypatch.setattr(SqliteSource, "load", hang)
    deadline_around(500)
    with pytest.raises(RunsDeadline):
        bench.drill(timeout="600s")
    assert bench.left_behind() == []


@pytest.fixture
def ordinary_signals() -> Iterator[None]:
    """Handled as in a process that was just started from a terminal, whatever other tests, or who started them, left."""
    ordinary = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in ordinary.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ordinary_signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cleans_up_and_goes_on_its_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    def interrupted(*arguments: object, **options: object) -> list[str]:
        assert bench.left_behind()
        signal.raise_signal(how)  # to this very thread: one sent to the process may come a moment later
        raise AssertionError("the signal did not arrive")

    monkeypatch.setattr(SqliteSource, "load", interrupted)
    with pytest.raises(KeyboardInterrupt if how == signal.SIGINT else InterruptedRunError):
        bench.drill()
    assert bench.left_behind() == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_bug_is_not_taken_for_a_verdict_and_cleans_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*arguments: object, **options: object) -> list[str]:
        raise KeyError("bug")

    monkeypatch.setattr(SqliteSource, "compare", bug)
    with pytest.raises(KeyError, match="bug"):
        bench.drill()
    assert bench.left_behind() == []


SURVIVOR = """
import os, sys
if os.fork() == 0:
    os.setsid()
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    with open(sys.argv[1], "w") as pid:
        pid.write(str(os.getpid()))
    os.rename(sys.argv[1], sys.argv[1] + ".done")
    time.sleep(600)
else:
    import time
    while not os.path.exists(sys.argv[1] + ".done"):
        time.sleep(0.01)
"""


@pytest.fixture
def survivor(tmp_path: Path) -> Iterator[Path]:
    """Where the surviving process writes its pid; it is ended after the test, whatever the drill did."""
    path = tmp_path / "survivor"
    yield path
    done = Path(f"{path}.done")
    if done.exists() and is_alive(int(done.read_text())):
        os.kill(int(done.read_text()), signal.SIGKILL)


def test_a_process_that_a_probe_left_behind_is_ended(
    bench: Bench, survivor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    result = bench.drill(probes=[{"command": {"argv": [sys.executable, "-c", SURVIVOR, str(survivor)]}}])
    assert result.verdict == "pass"
    pid = Path(f"{survivor}.done").read_text()
    assert any(f"(pid {pid})" in fact and "ended" in fact for fact in result.cleanup.facts)
    assert result.cleanup.proved
    assert not is_alive(int(pid))


def test_a_process_that_cannot_be_ended_leaves_the_clean_up_unproven(
    bench: Bench, survivor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "end", processes.find)  # as if every kill were refused
    result = bench.drill(probes=[{"command": {"argv": [sys.executable, "-c", SURVIVOR, str(survivor)]}}])
    assert result.verdict == "pass"
    assert not result.cleanup.proved
    pid = Path(f"{survivor}.done").read_text()
    assert any("processes of the drill" in fact and f"(pid {pid})" in fact for fact in result.cleanup.facts)
    assert any(reason.startswith("clean-up is not proven") for reason in result.reasons)


def test_a_second_drill_of_the_same_run_does_not_touch_the_first(bench: Bench) -> None:
    first = create(
        bench.staging, os.fsencode(bench.scratch), DRILL_ID,
        planned_bytes=0, max_disk=None, protected=(), expires=ago(hours=-1),
    )  # fmt: skip
    result = bench.drill()
    assert result.verdict == "inconclusive"
    assert "exists already" in result.reasons[0]
    assert bench.left_behind() == [os.path.basename(first.directory).decode()]


def test_what_a_killed_drill_left_is_removed_by_the_next(bench: Bench, tmp_path: Path) -> None:
    killed = """
import os, sys
from datetime import UTC, datetime, timedelta
from backupctl.drills.sandbox import create
from backupctl.hosts.local import LocalHost
from backupctl.sources.protocol import Instance
host = LocalHost("staging")
sandbox = create(host, os.fsencode(sys.argv[1]), "killed", planned_bytes=0, max_disk=None, protected=(),
                 expires=datetime.now(UTC) + timedelta(hours=1))
server = os.fork()
if server == 0:
    os.setsid()
    os.chdir(sandbox.directory)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    import time
    time.sleep(600)
os.mkdir(sys.argv[2])
sandbox.record(Instance("test", host, sandbox.directory, "1", {"sockets": sys.argv[2]}, server))
print(server, flush=True)
os.kill(os.getpid(), 9)
"""
    sockets = tmp_path / "sockets"
    done = subprocess.run(
        [sys.executable, "-c", killed, str(bench.scratch), str(sockets)], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -9
    server = int(done.stdout)
    assert is_alive(server)
    assert bench.left_behind() == ["drill-killed"]
    result = bench.drill()
    assert result.verdict == "pass"
    assert any("left by an earlier drill" in fact and f"(pid {server})" in fact for fact in result.cleanup.facts)
    assert bench.left_behind() == []
    assert not sockets.exists()
    assert not is_alive(server)
