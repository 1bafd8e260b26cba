"""`doctor` says what is wrong before the night finds it, and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from backupctl.catalog.models import Notice
from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.operations import doctor
from backupctl.operations.context import Context
from backupctl.operations.doctor import KNOWN_BAD, Diagnosis, examine, judge_clock
from backupctl.operations.pauses import pause
from backupctl.operations.setup import create_repository
from backupctl.scheduling.tonight import tonight
from tests.end_to_end.site import Site
from tests.end_to_end.test_s3 import login
from tests.operations.conftest import clock, context, site
from tests.servers.plugin_sshd import ssh_options
from tests.servers.rgw import Rgw
from tests.servers.sshd import Sshd

__all__ = ["clock", "context", "site"]


class Room(NamedTuple):
    total: int
    used: int
    free: int


def found(all_of_it: Iterator[Diagnosis], area: str) -> dict[str, Diagnosis]:
    """By subject; of several the gravest."""
    grave = {"ok": 0, "info": 1, "warning": 2, "error": 3}
    kept: dict[str, Diagnosis] = {}
    for one in all_of_it:
        if one.area == area and (one.subject not in kept or grave[one.severity] > grave[kept[one.subject].severity]):
            kept[one.subject] = one
    return kept


def test_a_set_up_that_is_in_order_has_no_error(context: Context, site: Site) -> None:
    (site.root / "staging").mkdir()
    assert [one for one in examine(context) if one.severity == "error"] == []


@pytest.mark.parametrize(
    ("program", "version", "bad"),
    [
        ("SQLite", "3.40.1", True),
        ("SQLite", "3.51.3", False),
        ("SQLite", "3.50.7", False),
        ("SQLite", "3.50.6", True),
        ("restic", "0.13.1", True),
        ("restic", "0.14.0", False),
        ("restic", "0.16.3", True),
        ("restic", "0.16.4", False),
        ("restic", "0.18.1", False),
    ],
)
def test_versions_that_are_known_to_be_bad(program: str, version: str, bad: bool) -> None:
    assert any(one.program == program and one.is_it(version) for one in KNOWN_BAD) is bad


@pytest.mark.parametrize(
    ("offset", "uncertain", "severity"),
    [(0.4, 0.5, "ok"), (-5.2, 0.5, "ok"), (7.0, 0.5, "warning"), (-301.0, 0.5, "error"), (900.0, 700.0, "warning")],
)
def test_a_clock_is_judged_beyond_what_the_way_takes(offset: float, uncertain: float, severity: str) -> None:
    assert judge_clock("main", offset, uncertain).severity == severity


def test_a_configuration_that_others_may_change_is_an_error(context: Context, site: Site) -> None:
    (site.root / "jobs" / "site.yaml").chmod(0o664)
    one = found(examine(context, far=False), "permissions")["site.yaml"]
    assert (one.severity, one.next_step) == ("error", f"chmod go-w {site.root}/jobs/site.yaml")
    assert "changed by group" in one.message


def test_a_secret_that_is_gone_or_open_to_others_is_named_and_not_shown(context: Context, site: Site) -> None:
    key = site.root / "repository.key"
    secret = key.read_text().strip()
    key.chmod(0o644)
    one = found(examine(context, far=False), "secrets")["repositories.main.password"]
    assert one.severity == "error"
    assert secret not in one.message + one.next_step
    key.unlink()
    assert found(examine(context, far=False), "secrets")["repositories.main.password"].severity == "error"


def test_a_disk_that_is_nearly_full(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, severity in ((500 << 20, "warning"), (50 << 20, "error")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: Room(1 << 40, 0, free))
        assert {one.severity for one in found(examine(context, far=False), "disk").values()} == {severity}


def test_a_channel_whose_notices_do_not_arrive_is_named_until_one_does(context: Context, site: Site) -> None:
    site.configure(main='notify: {ops: {webhook: {url: "http://127.0.0.1:9/"}}}\n', job="notify: [ops]\n")
    with Context.open(load(site.root / "backupctl.yaml"), clock=context.clock) as told:

        def notice(state: str, error: str) -> None:
            now = told.clock.now()
            told.catalog.add_notice(
                Notice(
                    channel="ops", kind="webhook", run="r", subject="s", created=now, delivered=None, error=error,
                    event={"kind": "backup"}, alarm=True, state=state, attempts=1, repeats=0, next_try=None,
                    last_sent=None, acknowledged=None, acknowledged_by="",
                )
            )  # fmt: skip

        notice("delivered", "")
        assert found(doctor.channels(told), "channel") == {}
        notice("queued", "refused")
        assert found(doctor.channels(told), "channel")["ops"].severity == "warning"
        notice("failed", "tried 78 times, given up: refused")
        [said] = doctor.channels(told)
        assert (said.severity, said.next_step) == ("error", "backupctl notify test ops")
        assert (
            said.message
            == "webhook: the last 2 notices did not arrive, 1 of them given up: tried 78 times, given up: refused"
        )
        notice("delivered", "")
        assert list(doctor.channels(told)) == []


def test_a_repository_that_is_gone_keeps_nothing_else_from_being_looked_at(context: Context, site: Site) -> None:
    context.resources.close()
    shutil.rmtree(site.repository)
    told = list(examine(context))
    assert found(iter(told), "store")["main"].severity == "error"
    assert found(iter(told), "host")["local"].severity == "ok"


def test_what_stops_the_night_is_said(context: Context, site: Site) -> None:
    jobs = list(context.settings.jobs.values())
    assert found(tonight(context, jobs), "tonight")["site: drill full"].severity == "error"  # no marker yet
    shutil.rmtree(site.root / "input" / "www")
    assert found(tonight(context, jobs), "tonight")["site: source www"].severity == "error"
    assert found(tonight(context, jobs, far=False), "tonight")["scheduler"].severity == "warning"
    pause(context, "site", reason="the database moves", until="7d")
    one = found(tonight(context, jobs, far=False), "tonight")["site"]
    assert one.severity == "error"
    assert "the database moves" in one.message


def test_the_command_ends_as_it_says(site: Site) -> None:
    site.prepare()
    said = site.run("doctor", "--here", "--json", expect=3)
    lines = [line for line in said.lines if line["type"] == "diagnosis"]
    assert {line["severity"] for line in lines} <= {"ok", "info", "warning"}
    (site.root / "backupctl.yaml").chmod(0o666)
    said = site.run("doctor", "--here", expect=1)
    assert "error: permissions: backupctl.yaml: " in said.out
    assert "1 error, " in said.out


@pytest.mark.servers
def test_a_real_bucket_and_a_real_host(
    site: Site, rgw: Rgw, sshd: Sshd, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    """A bucket without what the configuration claims, and a clock of ours that is a quarter of an hour ahead of both."""
    login(site, *rgw.admin)
    lock = "lock: {mode: compliance, days: 1}"
    storage = f"bucket: {new_bucket()}, endpoint: '{rgw.https}', ca_bundle: {rgw.ca}, credentials: {{file: s3.json}}"
    site.configure(storage=f"{{s3: {{{storage}}}}}")
    key = tmp_path / "login.key"
    key.write_bytes(sshd.login_key.read_bytes())
    key.chmod(0o600)
    options = ssh_options(sshd)
    ssh = f"address: {options.address}, port: {options.port}, user: {options.user}, key: {{file: {key}}}"
    main = site.root / "backupctl.yaml"
    host = f"  web1: {{ssh: {{{ssh}, host_key: '{options.host_key}'}}}}\n"
    main.write_text(main.read_text().replace("hosts:\n", f"hosts:\n{host}"))
    with Context.open(load(main), clock=FakeClock(datetime.now(UTC) + timedelta(minutes=15))) as opened:
        create_repository(opened, "main")
    main.write_text(main.read_text().replace("{file: s3.json}", f"{{file: s3.json}}, {lock}"))
    with Context.open(load(main), clock=FakeClock(datetime.now(UTC) + timedelta(minutes=15))) as opened:
        told = list(examine(opened))
    clocks, stores = found(iter(told), "clock"), found(iter(told), "store")
    for name in ("main", "web1"):
        assert clocks[name].severity == "error"
        assert "behind this machine's" in clocks[name].message
    assert stores["main: versions"].severity == "error"
    assert stores["main: object lock"].severity == "error"
    assert found(iter(told), "host")["web1"].severity == "ok"
    text = json.dumps([one.message for one in told])
    assert rgw.admin[1] not in text
