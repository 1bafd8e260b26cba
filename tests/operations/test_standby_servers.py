"""What a standby's server is told, and when it has to be built anew."""

from __future__ import annotations

import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backupctl.config.models import Job, SourceSettings
from backupctl.operations.standby_mariadb import _short, followed_sources
from backupctl.operations.standby_postgresql import _before_a_hole
from backupctl.operations.wal_status import LogStatus
from backupctl.sources.mariadb import MariadbOptions
from backupctl.sources.mariadb_binlog import Position
from backupctl.sources.mariadb_replay import Chain
from backupctl.sources.postgresql_standby import quoted, restore_command
from backupctl.sources.wal_index import Span

SEGMENT = 16 << 20


@pytest.mark.parametrize(
    ("spans", "at", "base_end", "hole"),
    [
        ([(1, 9)], 5, 8, False),  # the log leads on
        ([(1, 5)], 5, 8, False),  # only not archived yet, though the base backup is
        ([(1, 5), (6, 9)], 5, 8, True),
        ([(1, 5), (6, 9)], 5, 4, False),  # nothing newer to begin with
        ([(6, 9)], 2, 8, True),  # expired in front of it
        ([], 2, 8, False),
    ],
)
def test_it_is_built_anew_for_a_hole_alone(spans: list[tuple[int, int]], at: int, base_end: int, hole: bool) -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    found = [Span(1, start * SEGMENT, end * SEGMENT) for start, end in spans]
    archive = LogStatus("db", "0" * 64, now, now, 1, base_end * SEGMENT, 0, found)
    assert _before_a_hole(archive, {"end_lsn": f"0/{base_end * SEGMENT:X}"}, at * SEGMENT) is hole


def test_no_failure_to_fetch_ends_a_standby(tmp_path: Path) -> None:
    spool = tmp_path / "it's 100 % log"
    spool.mkdir()
    (spool / "here").write_text("segment")
    for fetch in ((), ("sh", "-c", "exit 200", "x")):
        command = restore_command(fetch, str(spool))
        for name, code in (("here", 0), ("absent", 1)):
            target = tmp_path / f"target-{name}"
            as_run = command.replace("%f", name).replace("%p", shlex.quote(str(target))).replace("%%", "%")
            assert subprocess.run(["sh", "-c", as_run], check=False).returncode == code, as_run
        assert (tmp_path / "target-here").read_text() == "segment"


def test_a_setting_is_quoted_as_postgresql_reads_it() -> None:
    assert quoted(r"a'b\c") == r"'a''b\\c'"


@pytest.mark.parametrize(
    ("file", "offset", "short"), [("bin.000002", 701, True), ("bin.000004", 373, False), ("bin.000010", 4, False)]
)
def test_a_log_that_is_not_stored_up_to_the_newest_backup_is_told(file: str, offset: int, short: bool) -> None:
    start = Position("bin.000002", 300)
    chain = Chain(start, start, None, ("bin.000002",), reach=Position(file, offset))
    assert bool(_short(chain, {"binary_log": ["bin.000004", 373], "time": "2026-11-20T03:00:00Z"})) is short


def test_the_job_of_a_servers_logs_makes_its_physical_source_a_warm_one() -> None:
    def source(host: str = "web1", **options: Any) -> SourceSettings:
        return SourceSettings.model_construct(kind="mariadb", host=host, options=MariadbOptions(**options))

    def job(**sources: SourceSettings) -> Job:
        return Job.model_construct(sources=sources)

    site = job(
        followed=source(method="physical", socket="/run/a"),
        received=source(method="physical", socket="/run/b", binlog={}),
        alone=source(method="physical", socket="/run/c"),
        elsewhere=source(host="web2", method="physical", socket="/run/a"),
        dumped=source(socket="/run/a"),
    )
    jobs = {"site": site, "logs": job(log=source(method="binlog", socket="/run/a"))}
    assert followed_sources(jobs, site) == ["followed", "received"]
