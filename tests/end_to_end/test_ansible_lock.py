"""The orchestrator is installed from the project's own lock file: every version and every digest as it says, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl import __version__
from tests.docs.pages import PROJECT
from tests.end_to_end.playbooks import Played, common, end_connections, play
from tests.servers.machines import Machine, Machines, machines_or_skip
from tests.servers.wheel import make_wheel

pytestmark = pytest.mark.servers
LOCK = PROJECT / "requirements.lock"
PYTHON = "/usr/bin/python3"  # the role's own choice


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines_or_skip()
    with Machines(tmp_path_factory.mktemp("lock") / "machines") as machines:
        yield machines


def packages(directory: Path) -> Path:
    """What the lock file names, from wherever pip gets packages here: the machine itself reaches nothing."""
    subprocess.run([PYTHON, "-m", "venv", directory / "venv"], check=True, capture_output=True)
    argv = [directory / "venv" / "bin" / "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", LOCK]
    done = subprocess.run([*argv, "--dest", directory / "packages"], capture_output=True, text=True)
    assert done.returncode == 0, f"pip needs a package index that it can reach: {done.stderr}"
    return directory / "packages"


def prepared(machines: Machines, directory: Path) -> Machine:
    machine = machines.start("orchestrator")
    for package in packages(directory).iterdir():
        machine.write(f"/opt/packages/{package.name}", package.read_bytes())
    wheel = make_wheel(directory)
    machine.write(f"/opt/{wheel.name}", wheel.read_bytes())
    machine.write("/opt/requirements.lock", LOCK.read_bytes())
    machine.write("/etc/pip.conf", "[install]\nno-index = true\nfind-links = /opt/packages\n")
    variables = {
        **common(machines),
        "backupctl_package": f"/opt/{wheel.name}",
        "backupctl_requirements": "/opt/requirements.lock",
    }
    hosts = {"orchestrator": {"hosts": {"backup1": {"ansible_host": machine.address}}, "vars": variables}}
    (directory / "hosts.yml").write_text(json.dumps(hosts))
    return machine


def test_what_the_lock_file_says_is_installed_and_nothing_else(machines: Machines, tmp_path: Path) -> None:
    machine = prepared(machines, tmp_path)

    def install(expect: int = 0) -> Played:
        return play(machines, tmp_path, "install.yml", expect=expect)

    try:
        installed = install()
        assert "orchestrator : Install the locked requirements" in installed.changes
        files = machine.run("ls", "/opt/packages").split()
        locked = {_normal(one.split("-")[0]): one.split("-")[1] for one in files}
        said = machine.run("/opt/backupctl/bin/pip", "list", "--format", "json", "--disable-pip-version-check")
        found = {_normal(one["name"]): one["version"] for one in json.loads(said.splitlines()[0])}
        own = {"pip", "setuptools", "wheel", "backupctl"}
        assert {name: version for name, version in found.items() if name not in own} == locked
        assert __version__ in machine.run("/opt/backupctl/bin/backupctl", "--version")
        assert machine.read("/etc/systemd/system/backupctl.service")
        assert install().changes == []

        # another digest than that of the package: a lock file that was not made for it, or a package that is not it
        text = LOCK.read_text()
        name = min(locked)
        entry = text[text.index(f"{name}==") :].split("# via")[0]
        machine.write("/opt/requirements.lock", text.replace(entry, re.sub(r"sha256:\w{4}", "sha256:0000", entry)))
        machine.run("/opt/backupctl/bin/pip", "uninstall", "--yes", "--quiet", name)
        assert "DO NOT MATCH THE HASHES" in install(expect=2).out
    finally:
        end_connections(tmp_path)


def _normal(name: str) -> str:
    """As package indexes compare names."""
    return re.sub("[._-]+", "-", name.lower())
