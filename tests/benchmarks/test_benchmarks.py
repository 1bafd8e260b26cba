"""The benchmarks themselves, small: they build, run every program, and count what they say they count."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.benchmarks import inputs, measure, postgresql, profile, scale, scenarios, summary, transfer
from tests.benchmarks.__main__ import main
from tests.benchmarks.measure import Measurement
from tests.benchmarks.scenarios import Sample
from tests.soak import rounds


@pytest.mark.servers  # needs restic
def test_a_small_run_measures_ours_and_restic_and_writes_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--size", "small", "--rounds", "0", "--programs", "backupctl,restic", "--inputs", "trees,database"]
    assert main([*arguments, "--directory", str(tmp_path / "work"), "--output", str(tmp_path / "out")]) == 0
    found, versions, machine = summary.from_json(tmp_path / "out" / "benchmarks.json")
    assert set(versions) == {"backupctl", "restic"}
    assert machine["processors"] >= 1
    assert machine["size"] == "small"
    assert "Inputs of size `small`" in (tmp_path / "out" / "benchmarks.md").read_text()
    operations = {(row.input, row.operation) for row in found if row.program == "backupctl"}
    assert operations == {
        *(("python-trees", name) for name in ("first", "unchanged", "1 % changed", "check", "restore")),
        *(("database", name) for name in ("first", "day after", "check")),
    }
    assert all(row.wall_seconds > 0 and row.cpu_seconds > 0 and row.peak_bytes > 1 << 20 for row in found)
    assert all(row.stored_bytes > 0 for row in found if row.operation == "first")
    assert "| python-trees | first | restic" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "out" / "benchmarks.svg").read_text()


@pytest.mark.servers  # needs restic
def test_only_the_chosen_operations_and_the_first_backup_are_run(tmp_path: Path) -> None:
    arguments = [
        "--size",
        "small",
        "--rounds",
        "1",
        "--no-memory",
        "--programs",
        "restic",
        "--inputs",
        "trees,database",
    ]
    arguments += ["--operations", "changed", "--directory", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    found, _, _ = summary.from_json(tmp_path / "out" / "benchmarks.json")
    assert [(row.input, row.operation) for row in found] == [
        ("python-trees", "first"),
        ("python-trees", "1 % changed"),
        ("database", "first"),
        ("database", "day after"),
    ]


def test_an_operation_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--operations", "backup", "--directory", str(tmp_path)])
    assert "no such operation: backup" in capsys.readouterr().err


def test_medians_and_ratios() -> None:
    def sample(program: str, seconds: float, *, memory: bool = False, peak: int = 0) -> Sample:
        return Sample("python-trees", "first", program, Measurement(seconds, seconds * 2, peak), 100, memory)

    samples = [sample("backupctl", seconds) for seconds in (1.0, 9.0, 2.0)]
    samples += [sample("backupctl", 50.0, memory=True, peak=300), sample("restic", 4.0)]
    found = summary.rows(samples)
    assert [(row.program, row.wall_seconds, row.peak_bytes, row.runs) for row in found] == [
        ("backupctl", 2.0, 300, 3),
        ("restic", 4.0, 0, 1),
    ]
    text = summary.table(found, {"restic": "restic 1"})
    assert "| python-trees | first | restic 1 | 4.00 | 8.00 |" in text
    assert "| 0.50 ✓ | 0.50 ✓ |" in text
    assert "✗" not in text


def test_a_failing_program_stops_the_comparison(tmp_path: Path) -> None:
    with pytest.raises(measure.CommandError, match="ended with 3: oh"):
        measure.run(
            [sys.executable, "-c", "import sys; print('oh', file=sys.stderr); sys.exit(3)"], env={}, cwd=tmp_path
        )


def test_memory_and_time_of_children_count(tmp_path: Path) -> None:
    child = "import time; data = bytearray(b'x') * (64 << 20); t = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    measured = measure.run([sys.executable, "-c", parent], env={}, cwd=tmp_path, memory=True)
    assert measured.peak_bytes > 64 << 20
    assert measured.cpu_seconds > 0.3


def test_the_day_after_has_the_changes_it_claims(tmp_path: Path) -> None:
    import sqlite3

    where = inputs.built(tmp_path / "database", inputs.database(5000))
    with sqlite3.connect(where / "tomorrow.db") as connection:
        connection.execute("ATTACH ? AS today", (str(where / "today.db"),))
        changed = connection.execute(
            "SELECT count(*) FROM orders JOIN today.orders AS old USING (id) WHERE orders.customer <> old.customer"
        ).fetchone()[0]
        added = connection.execute("SELECT count(*) FROM orders").fetchone()[0] - 5000
    connection.close()
    assert (changed, added) == (5, 100)


def test_an_input_cut_off_while_it_was_built_is_built_again(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "film-000.mp4").write_bytes(b"half")
    where = inputs.built(tmp_path / "media", inputs.media(2 << 20))
    assert os.path.getsize(where / "film-000.mp4") == 2 << 20
    first = (where / "film-000.mp4").read_bytes()
    assert inputs.built(tmp_path / "media", inputs.media(2 << 20)) == where
    assert (where / "film-000.mp4").read_bytes() == first


def test_many_files_are_deleted_at_the_end_and_few_at_once(tmp_path: Path) -> None:
    for name, count in (("few", 3), ("many", 1000)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / str(number)).touch()
        scenarios.discard(tmp_path, tmp_path / name)
    scenarios.discard(tmp_path, tmp_path / "none")
    assert [len(list(kept.iterdir())) for kept in (tmp_path / "discarded").iterdir()] == [1000]
    assert [one.name for one in tmp_path.iterdir()] == ["discarded"]
    scenarios.clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_touched_and_nothing_of_it_stays(tmp_path: Path) -> None:
    with patch.object(Path, "unlink", lambda path: sizes.append(path.stat().st_size)):
        sizes: list[int] = []
        measure.warm(tmp_path, (3 << 20) + 5)
    assert sizes == [(3 << 20) + 5]
    measure.warm(tmp_path, 7)
    assert list(tmp_path.iterdir()) == []


def test_the_scale_drawing_and_table_say_the_same() -> None:
    points = [scale.Point(count, "first", 1 + count / 1000, count / 500, 1.0, 0.0, 100 << 20) for count in (10, 1000)]
    assert [point.wall_microseconds_per_file for point in points] == pytest.approx([1000.0, 1000.0])
    assert "| 1,000 | first | 2.0 | 2.0 | 1000 | 2000 | 100 |" in scale.table(points)
    assert scale.drawing(points).count("<circle") == 2


def test_a_profile_counts_by_process_and_by_what_a_line_calls(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import os, sys, time\n"
        "from hashlib import sha256\n"
        "data = bytes(1 << 20)\n"
        "def work(child):\n"
        "    end = time.process_time() + 0.5\n"
        "    while time.process_time() < end:\n"
        "        if child:\n"
        "            sha256(data).digest()\n"
        "        else:\n"
        "            sum(range(10_000))\n"
        "child = os.fork()\n"
        "work(child)\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
        "    sys.exit(3)\n"
        "os._exit(0)\n"
    )
    code, processes = profile.run([sys.executable, str(script)])
    assert code == 3
    assert len(processes) == 2
    hashing, plain = sorted(processes, key=lambda counts: -counts["hash"])
    assert hashing["hash"] > hashing.total() / 2
    assert plain["hash"] == 0
    assert plain[profile.PYTHON] > plain.total() / 2
    assert "| hash | " in profile.table(processes)


@pytest.mark.servers  # needs sshd
def test_transfers_are_measured_in_turns_and_compared_within_a_round() -> None:
    found = transfer.measure(mebibytes=2, rounds=1)
    names = {"ssh cat", "scp", *(f"{name}, {what}" for name in ("paramiko", "openssh") for what in ("file", "stream"))}
    assert set(found) == names
    assert all(rate > 0 for rates in found.values() for rate in rates)
    rates = {"ssh cat": [100e6, 10e6], "scp": [50e6, 20e6], "ours": [200e6, 40e6]}
    assert transfer.table(rates).splitlines()[-1] == "| ours | 120 | 3.00 | 3.00 |"


@pytest.mark.servers
def test_postgresql_is_backed_up_restored_and_compared_by_phase(capsys: pytest.CaptureFixture[str]) -> None:
    programs = "pg_dump,dump" if rounds(0, 1) == 0 else ",".join(postgresql.PROGRAMS)
    assert postgresql.main(["--size", "small", "--days", str(rounds(0, 1)), "--programs", programs]) == 0
    lines = capsys.readouterr().out.splitlines()
    (theirs,) = [line for line in lines if "empty server" in line]
    assert theirs.endswith("| not done | 0 |")
    ours = [line for line in lines if "boot" in line]
    assert ours and all(line.endswith(" | 1 |") for line in ours)


def test_phases_and_a_week_are_told_beside_both_others() -> None:
    def one(name: str, seconds: float, mebibytes: int, **facts: Any) -> postgresql.Found:
        stored = [mebibytes << 20, mebibytes << 21]
        return postgresql.Found(name, [Measurement(seconds, 1.0)] * 2, {"load": seconds}, stored, **facts)

    found = [one("pg_dump", 4.0, 10), one("pgbackrest", 2.0, 40, log=3 << 20)]
    found.append(one("physical", 6.0, 20, tables=7))
    found[-1].restore["compare"] = 1.5
    text = postgresql.tables(found)
    assert "| physical | 6.0 | 1.0 | 1.50 | 3.00 |" in text
    assert "| physical | load 6.0 | 6.0 | 1.50 | 3.00 | 1.5 | 7 |" in text
    assert "| pgbackrest | 40.0 | 80.0 | 4.00 | 1.00 | 2.0 | 3.0 |" in text
