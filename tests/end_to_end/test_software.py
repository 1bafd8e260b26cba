"""A software inventory from backup to comparison: the same host later, and a drill on a staging host that differs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.end_to_end.site import Site


def program(directory: Path, name: str, body: str) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def site(open_site: Site) -> Site:
    """A host whose package list is a file, and which has no systemd and no apt."""
    site, programs = open_site, open_site.root / "programs"
    (site.root / "packages").write_text("bash\t5.2-1\tii \nnginx\t1.22\tii \n")
    program(programs, "dpkg-query", f"cat {site.root}/packages")
    for missing in ("systemctl", "apt-get", "apt-mark", "dnf", "psql", "mariadb"):
        program(programs, missing, "exit 127")
    site.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    site.sources = {"system": f"{{software: {{trees: [{site.root}/input/www]}}}}"}
    site.configure()
    return site.prepare()


def test_from_backup_to_comparison(site: Site) -> None:
    assert "2 packages" in site.run("job", "check", "site", expect=[0, 3]).text
    assert "services not performed: systemctl is not there" in site.run("job", "check", "site", expect=[0, 3]).text
    assert site.run("run", "--json").line("finished")["state"] == "complete"
    same = site.run("host", "compare", "local", "--job", "site")
    assert "packages: no difference" in same.out
    assert "services: not performed: inventory: systemctl is not there" in same.out

    (site.root / "packages").write_text("bash\t5.2-2\tii \nvim\t9.0\tii \n")
    (site.root / "input" / "www" / "index.html").write_text("changed")
    said = site.run("host", "compare", "local", "--job", "site", "--json", expect=3)
    sections = {line["section"]: line for line in said.lines if line["type"] == "section"}
    assert sections["packages"]["changed"] == {"bash": {"inventory": "5.2-1", "host": "5.2-2"}}
    assert (sections["packages"]["added"], sections["packages"]["removed"]) == ({"vim": "9.0"}, {"nginx": "1.22"})
    assert list(sections["configuration"]["changed"]) == [
        str(site.root / "input/www/hard"),
        str(site.root / "input/www/index.html"),
    ]
    plain = site.run("host", "compare", "staging", "--job", "site", "--source", "system", expect=3).out
    assert "packages: 1 added, 1 removed, 1 changed\n  ~ bash 5.2-1 → 5.2-2\n  - nginx 1.22\n  + vim 9.0\n" in plain


def test_a_drill_tells_how_staging_differs_and_passes(site: Site) -> None:
    site.run("run")
    (site.root / "packages").write_text("bash\t5.2-2\tii \n")
    done = site.run("drill", "run", "--json").line("finished")
    assert (done["verdict"], done["level"], done["failed_checks"]) == ("pass", 4, 0)
    checks = {one["name"]: one for one in site.run("drill", "show", "site/full", "--json").line("drill")["checks"]}
    packages = checks["system: packages of the staging host"]
    assert (packages["actual"], packages["ok"], packages["level"]) == ("0 added, 1 removed, 1 changed", True, 3)
    assert packages["detail"] == "~ bash 5.2-1 → 5.2-2; - nginx 1.22"
    assert checks["system: services of the staging host"]["actual"].startswith("not performed: ")


def test_a_rebuilt_host_must_be_the_one_that_was_saved(site: Site) -> None:
    site.run("run")
    site.configure(drill=", scenario: software-rebuild")
    (site.root / "packages").write_text("bash\t5.2-1\tii \nnginx\t1.22\tii \nrestic\t0.14\tii \n")
    done = site.run("drill", "run", "--json").line("finished")
    assert (done["verdict"], done["level"]) == ("pass", 4)  # what it has besides is told
    checks = {one["name"]: one for one in site.run("drill", "show", "site/full", "--json").line("drill")["checks"]}
    packages = checks["system: packages of the rebuilt host"]
    assert (packages["actual"], packages["detail"]) == ("1 added, 0 removed, 0 changed", "+ restic 0.14")

    (site.root / "packages").write_text("bash\t5.2-2\tii \n")
    said = site.run("drill", "run", expect=4)
    assert "system: packages of the rebuilt host: expected nothing missing, nothing changed" in said.text


def test_the_files_come_back(site: Site) -> None:
    site.run("run")
    site.run("restore", "--only", "system", "--into", "back")
    (inventory,) = (site.root / "back").rglob("inventory")
    assert json.loads((inventory / "packages.json").read_text())["items"] == {"bash": "5.2-1", "nginx": "1.22"}
    assert "not_performed" in json.loads((inventory / "services.json").read_text())
    (page,) = (site.root / "back").rglob("files" + str(site.root / "input" / "www" / "index.html"))
    assert page.read_text() == (site.root / "input" / "www" / "index.html").read_text()


def test_what_cannot_be_compared_is_said(site: Site) -> None:
    site.run("run")
    said = site.run("host", "compare", "local", "--job", "site", "--source", "db", expect=10)
    assert "no software source 'db'; it has: system" in said.err
    assert "no host" in site.run("host", "compare", "nowhere", "--job", "site", expect=[2, 10, 13]).err
    program(site.root / "programs", "dpkg-query", "echo broken >&2; exit 2")
    lost = site.run("host", "compare", "local", "--job", "site", expect=3)
    assert "packages: not performed: host: neither dpkg-query nor rpm lists packages here" in lost.out
    site.sources = {"www": "{files: {paths: [../input/www]}}"}
    site.configure()
    assert "0 software sources" in site.run("host", "compare", "local", "--job", "site", expect=10).err
