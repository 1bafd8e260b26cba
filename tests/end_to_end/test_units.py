"""The shipped units under a real systemd: what they let the service do, and what not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupctl.cli.shipping import UNITS
from tests.end_to_end.processes import wait_until
from tests.servers.booted import RefusedError, booted, installed
from tests.servers.machines import Machine

pytestmark = pytest.mark.servers

PROGRAM = "/opt/backupctl/bin/backupctl"
CONFIG = "/etc/backupctl"
SERVICE = "backupctl.service"
TEXTFILE = "/var/lib/prometheus/node-exporter/backupctl.prom"
STAMP = "/var/lib/systemd/timers/stamp-backupctl-due.timer"
MAIN = """\
version: 1
defaults: {timezone: UTC}
repositories: {near: {storage: {local: {path: /srv/backup/near}}, password: {file: near.key}}}
hosts: {staging: {local: {}, role: staging, scratch: /srv/staging}}
reports: {directory: /var/lib/backupctl/reports, organisation: Example Office}
jobs_dir: jobs/
"""
JOB = """\
job: %(name)s
owner: web team
sources: {it: %(source)s}
repository: near
schedule: {cron: "15 2 * * *", then: [%(then)s]}
objectives: {rpo: 30d, rto: 2h}
retention: {keep_daily: 7}
hooks: [{before: run, command: [sh, /usr/local/lib/%(hook)s]}]
drills: {full: {on: staging}}
"""
# what a run can do, asked in a run
HOOK = """\
tell() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "$what: yes"; else echo "$what: no"; fi; }
{
  tell "reads all" cat /srv/www/private/page
  tell "writes its own" touch /srv/backup/file
  tell "writes anywhere" touch /srv/open/file
  tell "becomes root" setpriv --reuid 0 --clear-groups true
  tell "makes namespaces" unshare --user true
} > /var/lib/backupctl/hook
"""
SLOW = "touch /var/lib/backupctl/slow; exec sleep 600\n"
# as if the machine had been off for two nights since the scheduler first met the job
OWE = """\
from datetime import timedelta
import sys, sqlalchemy
with sqlalchemy.create_engine(sys.argv[1]).begin() as catalog:
    if not sqlalchemy.inspect(catalog).has_table("runs"):
        sys.exit()  # the service is only about to begin
    runs = sqlalchemy.Table("runs", sqlalchemy.MetaData(), autoload_with=catalog)
    mine = (runs.c.name == sys.argv[2]) & (runs.c.trigger == "first_seen")
    for when in list(catalog.scalars(sqlalchemy.select(runs.c.scheduled).where(mine))):
        catalog.execute(runs.update().where(mine).values(scheduled=when - timedelta(days=2)))
        print("moved")
"""


class Installed:
    """backupctl on a booted machine, as docs/how-to/install.md has it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.catalog = ""

    def configure(self, catalog: str) -> None:
        self.catalog = catalog
        self.machine.write(f"{CONFIG}/backupctl.yaml", MAIN + catalog)

    def job(
        self, name: str, *, hook: str, source: str = "{files: {paths: [/srv/www]}}", then: str = "check, prune, drill"
    ) -> None:
        text = JOB % {"name": name, "hook": hook, "source": source, "then": then}
        self.machine.write(f"{CONFIG}/jobs/{name}.yaml", text)

    def systemctl(self, *arguments: str, expect: int | None = 0) -> str:
        return self.machine.run("systemctl", "--no-pager", *arguments, expect=expect)

    def state(self, unit: str) -> str:
        return self.systemctl("is-active", unit, expect=None).strip()

    def log(self, unit: str) -> str:
        return self.machine.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def runs(self, **fields: str) -> list[dict[str, Any]]:
        """Those that the service's user is told of, oldest first."""
        said = self.machine.run(PROGRAM, "runs", "--json", user="backupctl")
        lines = [json.loads(line) for line in said.splitlines()]
        return [
            one for one in lines if one["type"] == "run" and all(one[key] == value for key, value in fields.items())
        ]

    def owe(self, name: str) -> bool:
        url = self.catalog.split()[1]
        return "moved" in self.machine.run(sys.executable, "-c", OWE, url, name, user="backupctl")

    def is_slow(self) -> bool:
        """Whether a run waits in its hook."""
        return self.machine.run("rm", "/var/lib/backupctl/slow", expect=None) == ""

    def wait(self, look: Callable[[], object], what: str, unit: str) -> None:
        try:
            wait_until(look, what, 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(unit)}") from error


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    try:
        with booted(tmp_path_factory.mktemp("booted"), *installed()) as machine:
            yield install(machine)
    except RefusedError as error:
        pytest.skip(str(error))


def install(machine: Machine) -> Installed:
    machine.run("useradd", "--system", "--home-dir", "/var/lib/backupctl", "--create-home", "backupctl")
    machine.write(PROGRAM, f"#!{sys.executable} -P\nfrom backupctl.cli.main import main\n\nmain()\n")
    machine.run("chmod", "-R", "0755", "/opt/backupctl")
    there = Installed(machine)
    machine.write(f"{CONFIG}/near.key", "correct horse battery staple\n")
    machine.run("chown", "backupctl", f"{CONFIG}/near.key")
    machine.run("chmod", "0600", f"{CONFIG}/near.key")
    machine.run("mkdir", f"{CONFIG}/jobs")
    there.configure("catalog: sqlite:////var/lib/backupctl/catalog.db\n")
    for path in ("/srv/backup", "/srv/staging", str(Path(TEXTFILE).parent)):
        machine.run("install", "-d", "-m", "0700", "-o", "backupctl", path)
    machine.run("install", "-d", "-m", "0777", "/srv/open")
    machine.write("/srv/www/private/page", "what is to be kept\n" * 20_000)
    machine.run("chmod", "-R", "go=", "/srv/www")
    machine.write("/usr/local/lib/hook", HOOK)
    machine.write("/usr/local/lib/slow", SLOW)
    machine.run("mkdir", "-p", str(Path(STAMP).parent))
    machine.run(PROGRAM, "config", "files", "--into", "/", "--program", PROGRAM)
    machine.run("systemctl", "daemon-reload")
    machine.run(PROGRAM, "init", "--no-kit", user="backupctl")
    machine.run(PROGRAM, "host", "register", "staging", user="backupctl")
    return there


def test_a_timer_catches_up_what_the_machine_slept_through(there: Installed) -> None:
    there.job("web", hook="hook")
    there.systemctl("start", "backupctl-due.service")  # it meets the job, which owes nothing yet
    assert there.runs() == []
    there.owe("web")
    there.machine.run("touch", "-d", "1 hour ago", STAMP)
    there.systemctl("enable", "--now", "backupctl-due.timer")
    there.wait(lambda: there.runs(kind="drill"), "the timer to have done all of it", "backupctl-due")
    there.wait(
        lambda: there.state("backupctl-due.service") == "inactive", "the timer's service to end", "backupctl-due"
    )
    there.systemctl("disable", "--now", "backupctl-due.timer")
    assert [(one["kind"], one["name"], one["state"], one["verdict"]) for one in there.runs()] == [
        ("backup", "web", "complete", ""),
        ("check", "near", "complete", "pass"),
        ("prune", "web", "complete", ""),
        ("drill", "web/full", "complete", "pass"),
    ]


def test_a_run_reads_everything_and_writes_what_its_unit_names(there: Installed) -> None:
    assert there.machine.read("/var/lib/backupctl/hook").splitlines() == [
        "reads all: yes",
        "writes its own: yes",
        "writes anywhere: no",
        "becomes root: no",
        "makes namespaces: no",
    ]
    there.machine.run(PROGRAM, "restore", "web", "--into", "/root/back")  # by hand, as root, with the owners
    assert there.machine.read("/root/back/it/srv/www/private/page") == there.machine.read("/srv/www/private/page")
    assert there.machine.run("stat", "-c", "%U %a", "/root/back/it/srv/www/private/page") == "root 600\n"


def test_what_is_asked_by_timers_is_answered(there: Installed) -> None:
    there.systemctl("start", "backupctl-status.service")
    assert "backupctl_snapshot_time_seconds{" in there.machine.read(TEXTFILE)
    there.machine.write(f"{CONFIG}/jobs/bad.yaml", "job: bad\n")
    there.systemctl("start", "backupctl-status.service", expect=1)  # so that OnFailure= says it
    there.systemctl("start", "backupctl-doctor.service", expect=1)
    there.machine.run("rm", f"{CONFIG}/jobs/bad.yaml")
    there.systemctl("start", "backupctl-doctor.service", expect=None)  # whose clock follows no time server here
    last = there.log("backupctl-doctor.service").rpartition("Starting")[2]
    assert "of 21 things in order" in last and "error:" not in last


def test_the_service_takes_a_changed_configuration_and_refuses_a_broken_one(there: Installed) -> None:
    there.systemctl("enable", "--now", SERVICE)
    page = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8642/').status)"
    assert there.machine.run("python3", "-c", page) == "200\n"
    there.job("more", hook="slow")
    there.systemctl("restart", SERVICE)
    there.systemctl("reload", SERVICE)  # at once: it is heard
    there.wait(lambda: "new configuration in force; jobs: more, web" in there.log(SERVICE), "the new job", SERVICE)
    there.machine.write(f"{CONFIG}/jobs/bad.yaml", "job: bad\n")
    there.systemctl("reload", SERVICE)
    there.wait(lambda: "bad.yaml" in there.log(SERVICE), "the refusal", SERVICE)
    there.machine.run("rm", f"{CONFIG}/jobs/bad.yaml")
    assert there.state(SERVICE) == "active"


def test_a_restart_stops_what_runs_and_says_so(there: Installed) -> None:
    there.wait(lambda: there.owe("more"), "the scheduler to have met the job", SERVICE)
    there.systemctl("restart", SERVICE)
    there.wait(there.is_slow, "the run that was owed", SERVICE)
    there.systemctl("restart", SERVICE)
    assert [one["state"] for one in there.runs(name="more")] == ["cancelled"]
    assert there.state(SERVICE) == "active"


def test_what_a_killed_service_left_is_settled_by_the_next(there: Installed) -> None:
    there.machine.write(f"/run/systemd/system/{SERVICE}.d/soon.conf", "[Service]\nRestartSec=100ms\n")
    there.systemctl("daemon-reload")
    there.job("third", hook="slow")
    there.systemctl("reload", SERVICE)
    there.wait(lambda: there.owe("third"), "the scheduler to have met the job", SERVICE)
    there.systemctl("restart", SERVICE)
    there.wait(there.is_slow, "the run that was owed", SERVICE)
    there.systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
    there.wait(lambda: there.runs(name="third", state="failed"), "the run to be settled", SERVICE)
    assert there.state(SERVICE) == "active"
    there.systemctl("disable", "--now", SERVICE)


def test_a_worker_of_a_fleet_backs_a_server_up(there: Installed) -> None:
    """The catalog in PostgreSQL, and a database in it as source: `serve` hands out, the worker's service executes."""
    version = there.machine.run("ls", "/etc/postgresql").split()[-1]
    there.systemctl("start", f"postgresql@{version}-main.service")
    for argv in (["createuser", "backupctl", "--superuser"], ["createdb", "backupctl", "--owner=backupctl"]):
        there.machine.run(*argv, user="postgres")
    there.machine.run("createdb", "wiki", user="backupctl")
    there.machine.run(
        "psql", "-qc", "create table page as select generate_series(1, 2000) as id", "wiki", user="backupctl"
    )
    there.machine.run("sh", "-c", f"rm {CONFIG}/jobs/*")
    there.configure("catalog: postgresql+psycopg:///backupctl?host=/run/postgresql\nfleet: {}\n")
    there.job(
        "wiki", hook="hook", source="{postgresql: {conninfo: host=/run/postgresql, databases: [wiki]}}", then="drill"
    )
    there.systemctl("start", SERVICE, "backupctl-worker.service")  # the worker waits for the tables
    there.wait(lambda: there.owe("wiki"), "the scheduler to have met the job", SERVICE)
    there.systemctl("restart", SERVICE)
    there.wait(lambda: there.runs(kind="backup", state="complete"), "the backup", "backupctl-worker")
    there.systemctl("restart", SERVICE)  # it looks as it starts, and else each minute
    there.wait(lambda: there.runs(kind="drill", state="complete"), "the drill of the backup", "backupctl-worker")
    assert {(one["kind"], one["state"], one["verdict"]) for one in there.runs()} == {
        ("backup", "complete", ""),
        ("drill", "complete", "pass"),
    }
    there.systemctl("stop", "backupctl-worker.service")
    assert there.systemctl("show", "-p", "Result", "backupctl-worker.service") == "Result=success\n"
    there.systemctl("stop", SERVICE)


def test_nothing_was_refused_that_is_not_meant_to_be(there: Installed) -> None:
    journal = there.machine.run("journalctl", "--no-pager", "-o", "cat", "-u", "backupctl*")
    assert (
        "Traceback" not in journal
        and "Read-only file system" not in journal
        and "Operation not permitted" not in journal
    )
    services = [name for name in UNITS if name.endswith(".service")]
    ended = {name for name in services if f"{name}: Deactivated successfully." in journal}
    assert ended == {
        "backupctl.service",
        "backupctl-worker.service",
        "backupctl-due.service",
        "backupctl-status.service",
    }
