"""Software inventory: of this Debian, of hosts that are otherwise, and how two of them differ."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import DamageError, UnreachableError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Completed
from backupctl.sources.software import SoftwareOptions, SoftwareSource, read_inventory, shown
from backupctl.sources.software_inventory import canonical, compare_inventories, digests, gather
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, drain, take

DPKG = b"bash\t5.2-1\tii \nkept\t1.0\thi \ngone\t0.9\trc \n"
APT = (
    b"Inst base [1] (2 Debian:12.15/oldstable [amd64])\n"
    b"Inst openssl [3.0.1] (3.0.2 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []\n"
    b"Conf openssl (3.0.2 Debian-Security:12/oldstable-security [amd64])\n"
)


class Elsewhere(LocalHost):
    """A host that has these programs and these files, and no others."""

    def __init__(self, root, programs=(), files=()):
        super().__init__("elsewhere")
        self.root = os.fsencode(root)
        self.programs = {"uname": (0, b"some\n"), **dict(programs)}
        for path, content in dict(files).items():
            target = Path(root) / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)

    def run(self, argv, **options):
        code, output = self.programs.get(argv[0], (127, b""))
        if callable(output):
            output = output(argv)
        return Completed(tuple(argv), code, output, "it said why")

    def stat(self, path):
        return super().stat(self.root + path)

    def open_read(self, path):
        return super().open_read(self.root + path)

    def list_directory(self, path):
        return super().list_directory(self.root + path)

    def scan(self, root, *, exclude=()):
        for info in super().scan(self.root + root, exclude=[f"{self.root.decode()}{one}" for one in exclude]):
            yield replace(info, path=info.path[len(self.root) :])


def answer(sql):
    if sql.startswith("SHOW"):
        return b"15.18\n"
    return b"o'dd\n" if "pg_database" in sql else b"plpgsql 1.0\n"


DEBIAN = {
    "dpkg-query": (0, DPKG),
    "apt-get": (0, lambda argv: APT if "-s" in argv else b"apt 2.6"),
    "apt-mark": (0, b"bash\n"),
    "systemctl": (0, b"ssh.service enabled enabled\nbackup.timer enabled enabled\n"),
    "redis-server": (0, b"Redis server v=7.0.15\n"),
    "psql": (0, lambda argv: answer(argv[-1])),
    "mariadb": (0, b"server\t10.11.19-MariaDB\nplugin unix_socket\t1.0\n"),
}
FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nmei:$6$hash:1000:1000::/home/mei:/bin/sh\n",
    "/etc/group": "root:x:0:\nstaff:!:50:mei\n",
    "/etc/crontab": "0 3 * * * root /usr/local/bin/tidy\n",
    "/etc/cron.d/report": "5 * * * * mei report\n",
    "/etc/app/app.conf": "port = 1\n",
    "/etc/app/secret.key": "s3cret\n",
    "/var/lib/apt/lists/deb_InRelease": "",
}


def test_a_debian_host(tmp_path):
    found = gather(Elsewhere(tmp_path, DEBIAN, FILES), ["/etc/app"], ["/etc/app/*.key"])
    items = {name: section["items"] for name, section in found.items()}  # every section was performed
    assert items["packages"] == {"bash": "5.2-1", "kept": "1.0"}
    assert items["held_packages"] == {"kept": "1.0"}
    assert items["requested_packages"] == {"bash": "requested"}
    assert items["services"] == {"ssh.service": "enabled"}
    assert items["timers"] == {"backup.timer": "enabled"}
    assert items["users"]["mei"] == "1000:1000::/home/mei:/bin/sh"
    assert items["groups"]["staff"] == "50:mei"
    assert set(items["crontabs"]) == {"/etc/crontab", "/etc/cron.d", "/etc/cron.d/report"}
    assert items["database_programs"] == {"redis-server": "Redis server v=7.0.15"}
    assert items["mariadb"] == {"server": "10.11.19-MariaDB", "plugin unix_socket": "1.0"}
    assert items["postgresql"] == {"server": "15.18", "o'dd: extension plpgsql": "1.0"}
    assert items["security_updates"] == {"openssl": "3.0.2"}
    assert found["security_updates"]["as_of"].startswith("20")
    assert set(items["configuration"]) == {"/etc/app", "/etc/app/app.conf"}
    assert "hash" not in json.dumps(found)


def test_a_host_with_rpm_and_no_systemd(tmp_path):
    rpm = b"bash.x86_64\t0:5.1-2\nkernel.x86_64\t0:5.14-2\nkernel.x86_64\t0:5.14-1\nopenssl.x86_64\t1:3.0-7\n"
    dnf = b"RHSA-2026:1 Important/Sec. openssl-1:3.0-8.x86_64\n"
    found = gather(Elsewhere(tmp_path, {"rpm": (0, rpm), "dnf": (0, dnf)}, {"/etc/passwd": FILES["/etc/passwd"]}))
    packages = found["packages"]["items"]
    assert packages == {"bash.x86_64": "5.1-2", "kernel.x86_64": "5.14-1 5.14-2", "openssl.x86_64": "1:3.0-7"}
    assert found["security_updates"]["items"] == {"openssl-1:3.0-8.x86_64": "RHSA-2026:1"}
    missing = {name: section["not_performed"] for name, section in found.items() if "items" not in section}
    assert missing["services"] == missing["timers"] == "systemctl is not there"
    assert "dpkg-query is not there" in missing["held_packages"]
    assert missing["groups"] == "/etc/group is not there"
    assert "none of /etc/crontab" in missing["crontabs"]
    assert missing["postgresql"] == "psql is not there"
    assert set(missing) > {"requested_packages", "database_programs", "mariadb"}


def test_a_host_with_nothing_says_so_everywhere(tmp_path):
    found = gather(Elsewhere(tmp_path), ["/etc/app"])
    assert {name for name, section in found.items() if "items" in section} == {"system"}
    assert found["packages"]["not_performed"] == "neither dpkg-query nor rpm lists packages here"
    assert "none of /etc/app is there" in found["configuration"]["not_performed"]


def test_what_fails_is_not_performed_and_says_why(tmp_path):
    programs = {"psql": (2, b""), "systemctl": (1, b""), "apt-get": (0, b"")}
    found = gather(Elsewhere(tmp_path, programs))
    assert found["postgresql"]["not_performed"] == "psql ended with exit status 2: it said why"
    assert found["services"]["not_performed"].startswith("systemctl ended with exit status 1")
    assert "no package lists" in found["security_updates"]["not_performed"]


def test_a_host_that_is_gone_is_no_inventory(tmp_path):
    class Gone(Elsewhere):
        def run(self, argv, **options):
            raise UnreachableError("gone")

    with pytest.raises(UnreachableError):
        gather(Gone(tmp_path))


SOURCE = SoftwareSource("system", SoftwareOptions(trees=["/etc/apt"]))


@pytest.fixture(scope="module")
def here():
    return take(SOURCE)


def test_this_host_twice_is_the_same(here):
    files, fingerprint = here
    assert {b"inventory/packages.json", b"inventory/users.json"} < set(files.content)
    assert fingerprint["sections"]["packages"]["items"] > 100
    assert fingerprint["sections"]["users"]["items"] > 10
    assert any(path.startswith(b"files/etc/apt/") for path in files.content)
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    installed = HOST.run(["dpkg-query", "-W", "-f", "${Version}", "bash"], check=True).stdout.decode()
    assert read_inventory(files)["packages"]["items"]["bash"] == installed
    again = gather(HOST, ["/etc/apt"])
    assert digests(again) == fingerprint["sections"]
    assert all(files.content[b"inventory/%s.json" % name.encode()] == canonical(one) for name, one in again.items())


def test_differences_are_sorted_and_counted(tmp_path):
    old = gather(Elsewhere(tmp_path / "a", DEBIAN, FILES), ["/etc/app"])
    changed = {**DEBIAN, "dpkg-query": (0, b"bash\t5.3\tii \nnew\t1\tii \n"), "systemctl": (127, b"")}
    new = gather(Elsewhere(tmp_path / "b", changed, {**FILES, "/etc/app/app.conf": "port = 2\n"}), ["/etc/app"])
    found = {one.section: one for one in compare_inventories(old, new)}
    assert found["packages"].summary == "1 added, 1 removed, 1 changed"
    assert found["packages"].lines() == ["~ bash 5.2-1 → 5.3", "- kept 1.0", "+ new 1"]
    assert list(found["configuration"].changed) == ["/etc/app/app.conf"]
    assert found["services"].summary == "not performed: host: systemctl is not there"
    assert found["services"].differs
    assert not found["users"].differs
    back = {one.section: one for one in compare_inventories(new, old)}
    assert back["services"].summary == "not performed: inventory: systemctl is not there"
    assert not back["services"].differs
    assert shown(found["packages"].lines(), 2) == "~ bash 5.2-1 → 5.3; - kept 1.0; and 1 more"


def test_a_malformed_section_is_damage():
    for content in (b"", b"[]", b"{}", b'{"items": 1}'):
        with pytest.raises(DamageError, match="section packages"):
            read_inventory(MemoryFiles({b"inventory/packages.json": content}))
    assert canonical({"items": {"b": "é", "a": "1"}}).index(b'"a"') < canonical({"items": {"b": "é", "a": "1"}}).index(
        b'"b"'
    )


def test_preflight_says_what_it_cannot_tell(tmp_path):
    source = SoftwareSource("system", SoftwareOptions(trees=["/etc/app"]))
    findings = source.preflight(Elsewhere(tmp_path, {"dpkg-query": (0, DPKG)}))
    messages = "\n".join(finding.message for finding in findings)
    assert "2 packages" in messages
    assert "services not performed: systemctl is not there" in messages
    assert "/etc/app does not exist" in messages
    assert [finding.severity for finding in findings if "/etc/app" in finding.message] == ["error"]


@pytest.mark.servers
def test_behind_ssh_the_same_as_here(here, ssh_host):
    with SOURCE.open(ssh_host, CLOCK) as session:
        files = MemoryFiles({entry.path: drain(entry.open()) for entry in session.entries() if entry.open})
        fingerprint = session.fingerprint()
    for section in ("packages", "held_packages", "users", "groups", "services", "configuration"):
        assert fingerprint["sections"][section] == here[1]["sections"][section]
    assert read_inventory(files)["system"]["items"]["kernel"]


@pytest.mark.parametrize("options", [{"trees": ["etc"]}, {"trees": ["/etc", "/etc/apt"]}, {"x": 1}])
def test_options_refused(options):
    with pytest.raises(ValidationError):
        SoftwareOptions(**options)
