"""The playbooks against machines in namespaces: what they set up is used for real, and a second run changes nothing."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupctl import __version__
from tests.end_to_end.playbooks import Played, common, end_connections, play
from tests.servers.machines import Machine, Machines, machines_or_skip
from tests.servers.wheel import make_wheel
from tests.soak import rounds

pytestmark = pytest.mark.servers
NEXT = "0.1.1"
BACKUPCTL = ("/opt/backupctl/bin/backupctl", "--config", "/etc/backupctl/backupctl.yaml")

MAIN = """
version: 1
defaults: {timezone: Asia/Taipei}
catalog: sqlite:////var/lib/backupctl/catalog.db
repositories:
  offsite: {storage: {local: {path: /srv/backup/repository}}, password: {file: /var/lib/backupctl/offsite.key}}
hosts_dir: hosts/
jobs_dir: jobs/
standby:
  spare: {host: spare1, jobs: [wiki], directory: /srv/standby, lag: 26h}
reports: {directory: /var/lib/backupctl/reports, organisation: Test Office}
"""
JOB = """
job: wiki
owner: web team
sources:
  pages: {files: {host: web1, paths: [/srv/wiki]}}
  database: {postgresql: {host: web1, conninfo: "user=backup", databases: [wiki]}}
repository: offsite
schedule: {cron: "15 2 * * *"}
objectives: {rpo: 24h, rto: 2h}
retention: {keep_daily: 7}
drills:
  whole: {on: staging1}
"""


@dataclass
class Site:
    """The machines, and the files with which an administrator would run the playbooks."""

    machines: Machines
    directory: Path
    orchestrator: Machine
    web1: Machine
    staging1: Machine
    spare1: Machine

    def play(self, playbook: str, *arguments: str, expect: int = 0) -> Played:
        return play(self.machines, self.directory, playbook, *arguments, expect=expect)

    def backupctl(self, *arguments: str, expect: int = 0) -> list[dict[str, object]]:
        said = self.orchestrator.run(*BACKUPCTL, *arguments, "--json", user="backupctl", expect=expect)
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    machines_or_skip()
    directory = tmp_path_factory.mktemp("site")
    with Machines(directory / "machines") as machines:
        site = Site(
            machines, directory, *(machines.start(name) for name in ("orchestrator", "web1", "staging1", "spare1"))
        )
        write_inventory(site)
        prepare_orchestrator(site.orchestrator, [make_wheel(directory), make_wheel(directory, NEXT)])
        prepare_web1(site.web1)
        yield site
        end_connections(directory)


def package(version: str) -> str:
    return f"/opt/wheels/backupctl-{version}-py3-none-any.whl"


def write_inventory(site: Site) -> None:
    variables = {
        **common(site.machines),
        "backupctl_package": package(__version__),
        "backupctl_configuration": str(site.directory / "configuration"),
        "backupctl_firewall": True,
        "firewall_administrators": [site.machines.address],
    }
    source = {
        "ansible_host": site.web1.address,
        "source_from": [site.orchestrator.address],
        "source_as_root": True,
        "source_postgresql_databases": ["wiki"],
        "source_mariadb": True,
    }
    staging = {
        "ansible_host": site.staging1.address,
        "staging_from": [site.orchestrator.address],
        "firewall_in": [{"why": "drills", "addresses": [site.orchestrator.address], "ports": [22]}],
        "staging_size": "400M",
        "staging_max_disk": "300MiB",
    }
    spare = {
        "ansible_host": site.spare1.address,
        "firewall_in": staging["firewall_in"],
        "standby_from": [site.orchestrator.address],
        "standby_entry": "spare",
        "standby_refresh": "*/10 * * * *",
    }
    reached = [site.web1.address, site.staging1.address, site.spare1.address]
    orchestrator = {
        "ansible_host": site.orchestrator.address,
        "firewall_out": [{"why": "machines that are read, and staging", "addresses": reached, "ports": [22]}],
    }
    groups = {
        "all": {"vars": variables},
        "orchestrator": {"hosts": {"backup1": orchestrator}},
        "sources": {"hosts": {"web1": source}},
        "staging": {"hosts": {"staging1": staging}},
        "standby": {"hosts": {"spare1": spare}},
    }
    (site.directory / "hosts.yml").write_text(json.dumps(groups))
    (site.directory / "configuration" / "jobs").mkdir(parents=True)
    (site.directory / "configuration" / "backupctl.yaml").write_text(MAIN)
    (site.directory / "configuration" / "jobs" / "wiki.yaml").write_text(JOB)


def prepare_orchestrator(machine: Machine, wheels: Sequence[Path]) -> None:
    """The wheels, and an environment that sees the libraries of this one: nothing is downloaded."""
    for wheel in wheels:
        machine.write(f"/opt/wheels/{wheel.name}", wheel.read_bytes())
    machine.write("/etc/pip.conf", "[install]\nno-deps = true\nno-index = true\n")
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    machine.run(str(base), "-m", "venv", "/opt/backupctl")
    libraries = f"/opt/backupctl/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    machine.write(f"{libraries}/these.pth", f"{sysconfig.get_path('purelib')}\n")


def prepare_web1(machine: Machine) -> None:
    machine.write("/srv/wiki/index.md", "# hello\n")
    machine.write("/srv/wiki/secret/pages.bin", os.urandom(300_000))
    machine.run("chmod", "0700", "/srv/wiki/secret")
    version = machine.run("ls", "/etc/postgresql").split()[-1]
    machine.run("pg_ctlcluster", version, "main", "start")
    machine.run("createdb", "wiki", user="postgres")
    machine.run("sh", "-c", "mariadbd-safe --no-defaults --datadir=/var/lib/mysql >/dev/null 2>&1 &")
    machine.run("psql", "-qc", "create table page as select generate_series(1, 2000) as id", "wiki", user="postgres")


def test_a_site_is_installed_and_backed_up(site: Site) -> None:
    site.play("install.yml")
    for _ in range(rounds(0, 1)):  # a short test has the upgrade below for that
        again = site.play("install.yml")
        assert again.changes == []
        assert set(again.changed.values()) == {0}
    site.orchestrator.run(*BACKUPCTL, "init", "--no-kit", user="backupctl")
    checked = site.backupctl("job", "check", "wiki", expect=3)  # checksums of pages are off
    assert not [line for line in checked if line.get("severity") == "error"]
    (finished,) = [line for line in site.backupctl("run", "wiki") if line["type"] == "finished"]
    assert finished["state"] == "complete"
    listed = site.orchestrator.run(*BACKUPCTL, "ls", "wiki", "--recursive", user="backupctl")
    assert "/pages/srv/wiki/secret/pages.bin" in listed
    assert "/database/wiki/database.dump" in listed


def test_a_drill_passes_on_the_staging_host(site: Site) -> None:
    played = site.play("drill.yml", "-e", "backupctl_drill=wiki/whole")
    assert "drill wiki/whole: pass" in played.out
    shown = site.orchestrator.run(*BACKUPCTL, "drill", "show", "wiki/whole", user="backupctl")
    assert "network of staging1: no connection came through to any of 3 addresses of production" in shown
    assert site.staging1.run("ls", "-A", "/srv/staging").split() == ["backupctl-staging.json", "lost+found"]


def test_drills_have_the_room_they_were_given(site: Site) -> None:
    mounted = site.staging1.run("findmnt", "-no", "FSTYPE,OPTIONS", "/srv/staging")
    assert mounted.startswith("ext4")
    assert {"nodev", "nosuid"} <= set(mounted.split()[1].split(","))
    full = site.staging1.run("fallocate", "-l", "500M", "/srv/staging/much", user="backup-drill", expect=1)
    assert "No space left" in full
    site.staging1.run("rm", "/srv/staging/much", user="backup-drill")
    # without the mark nothing is done there
    site.staging1.run("mv", "/srv/staging/backupctl-staging.json", "/root/")
    assert site.backupctl("drill", "run", "wiki/whole", expect=5)
    site.staging1.run("mv", "/root/backupctl-staging.json", "/srv/staging/")


def test_a_standby_is_kept_warm(site: Site) -> None:
    line = site.orchestrator.read("/etc/cron.d/backupctl-standby-spare").splitlines()[-1]
    assert line.startswith("*/10 * * * * backupctl /opt/backupctl/bin/backupctl ")
    site.orchestrator.run(*line.split()[6:], user="backupctl")
    (state,) = [one for one in site.backupctl("standby", "status") if one["type"] == "standby"]
    assert state["state"] == "ok"
    warm, source = "/srv/standby/files/wiki/pages/srv/wiki/secret", "/srv/wiki/secret"
    assert site.spare1.run("stat", "-c", "%U %a", warm) == site.web1.run("stat", "-c", "%U %a", source)
    ask = ("sh", "-c", 'cd "$0" && sha256sum *')
    assert site.spare1.run(*ask, warm) == site.web1.run(*ask, source)


def test_an_upgrade_renews_what_reads_and_changes_nothing_else(site: Site) -> None:
    played = site.play("upgrade.yml", "-e", f"backupctl_package={package(NEXT)}")
    assert played.changes == [
        "orchestrator : Install backupctl",
        "orchestrator : Write the units, log rotation, man pages and completion",
        "source_host : Write the account's files",
    ]
    assert played.changed == {"backup1": 2, "web1": 1, "staging1": 0, "spare1": 0}
    assert NEXT in site.orchestrator.run(*BACKUPCTL, "--version")
    (finished,) = [line for line in site.backupctl("run", "wiki") if line["type"] == "finished"]
    assert finished["state"] == "complete"


def test_the_account_can_do_nothing_else(site: Site) -> None:
    key = "/var/lib/backupctl/web1.ssh-key"
    ssh = [
        "ssh",
        "-i",
        key,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]
    there = f"backup-reader@{site.web1.address}"
    assert "refused" in site.orchestrator.run(*ssh, there, "cat /etc/passwd", user="backupctl", expect=126)
    assert "refused" in site.orchestrator.run(*ssh, there, user="backupctl", expect=126)
    # not from elsewhere, and not by anybody who has the account but not root
    site.web1.write("/root/key", site.orchestrator.read(key))
    site.web1.run("chmod", "0600", "/root/key")
    assert "Permission denied" in site.web1.run(*ssh[:1], "-i", "/root/key", *ssh[3:], there, "true", expect=255)
    site.web1.run("touch", "/home/backup-reader/.ssh/authorized_keys2", user="backup-reader", expect=1)
    site.web1.run("sudo", "-n", "id", user="backup-reader", expect=1)


def test_the_database_account_reads_and_changes_nothing(site: Site) -> None:
    psql = ["psql", "-X", "-A", "-t", "-U", "backup", "-d", "wiki"]
    assert site.web1.run(*psql, "-c", "select count(*) from page", user="backup-reader").strip() == "2000"
    assert "permission denied" in site.web1.run(*psql, "-c", "delete from page", user="backup-reader", expect=1)
    assert "Peer authentication failed" in site.web1.run(*psql, "-c", "select 1", user="nobody", expect=2)
    mariadb = ["mariadb", "--batch", "--skip-column-names", "-u", "backup-reader", "-e"]
    assert "global_priv" in site.web1.run(
        *mariadb, "select table_name from information_schema.tables", user="backup-reader"
    )
    assert "denied" in site.web1.run(*mariadb, "create database other", user="backup-reader", expect=1)
    assert "denied" in site.web1.run(*mariadb, "select 1", expect=1)  # not even root is that account


def test_nothing_else_gets_in_or_out(site: Site) -> None:
    reach, soon = ["timeout", "20", "bash", "-c"], ["timeout", "2", "bash", "-c"]
    staging, orchestrator, web1 = site.staging1, site.orchestrator, site.web1
    for machine, there in ((staging, orchestrator), (staging, web1), (orchestrator, site.machines)):
        machine.run(*reach, f": < /dev/tcp/{there.address}/22", expect=1)  # refused by the machine itself
    for there in (staging, orchestrator, site.spare1):
        web1.run(*soon, f": < /dev/tcp/{there.address}/22", expect=124)  # dropped: no answer at all
    orchestrator.run(*reach, f": < /dev/tcp/{staging.address}/22")
    orchestrator.run(*reach, f": < /dev/tcp/{staging.address}/5432", expect=1)
    assert "policy drop" in staging.run("nft", "list", "chain", "inet", "backupctl", "forward")
    # a drill sees when that no longer holds
    staging.run("nft", "insert", "rule", "inet", "backupctl", "output", "accept")
    said = site.backupctl("drill", "run", "wiki/whole", expect=5)
    assert f"staging host staging1 reaches production: web1 ({web1.address}:22)" in json.dumps(said)


def test_a_removal_is_planned_first_and_leaves_the_backups(site: Site) -> None:
    planned = site.play("remove.yml", "--limit", "backup1,web1")
    assert {"Say that it would go", "Remove the account", "Remove it"} <= {
        one.split(" : ")[-1] for one in planned.changes
    }
    (finished,) = [line for line in site.backupctl("run", "wiki") if line["type"] == "finished"]
    assert finished["state"] == "complete"
    apply = ("-e", "backupctl_remove=apply")
    refused = site.play("remove.yml", *apply, "--limit", "web1", expect=2)
    assert "jobs still need web1" in refused.out
    site.backupctl("host", "check", "web1")
    site.play("remove.yml", *apply)
    for machine, user, places in (
        (
            site.web1,
            "backup-reader",
            ("/home/backup-reader", "/usr/local/lib/backupctl", "/etc/sudoers.d/backupctl-backup-reader"),
        ),
        (
            site.staging1,
            "backup-drill",
            ("/home/backup-drill", "/var/lib/backupctl-staging.img", "/etc/nftables.d/backupctl.nft"),
        ),
        (
            site.orchestrator,
            "",
            ("/opt/backupctl", "/etc/systemd/system/backupctl.service", "/usr/local/share/man/man1/backupctl.1"),
        ),
    ):
        for place in places:
            machine.run("test", "!", "-e", place)
        assert not user or user not in machine.read("/etc/passwd")
    assert "backup" not in site.web1.run("psql", "-At", "-c", "select rolname from pg_roles", user="postgres").split()
    assert "backup-reader" not in site.web1.run("mariadb", "-Ne", "select user from mysql.user")
    assert "backupctl" not in site.staging1.run("nft", "list", "tables")
    assert "backupctl-staging" not in site.staging1.read("/etc/fstab")
    assert "backupctl spare1" not in site.spare1.read("/root/.ssh/authorized_keys")
    site.spare1.run("test", "-e", "/srv/standby/files/wiki")  # it may be the primary by now
    # the backups can still be read, with any program and what was left
    program = [sys.executable, "-P", "-c", "from backupctl.cli.main import main; main()"]
    listed = site.orchestrator.run(*program, *BACKUPCTL[1:], "ls", "wiki", "--recursive")
    assert "/pages/srv/wiki/secret/pages.bin" in listed
