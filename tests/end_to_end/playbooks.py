"""Runs the project's playbooks against machines in namespaces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import PROJECT
from tests.servers.machines import Machines

ANSIBLE = PROJECT / "ansible"


@dataclass
class Played:
    out: str

    @property
    def changed(self) -> dict[str, int]:
        return {name: int(number) for name, number in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.out, re.M)}

    @property
    def changes(self) -> list[str]:
        """The tasks that changed something."""
        tasks = re.split(r"^(?:TASK|RUNNING HANDLER) \[", self.out, flags=re.M)[1:]
        return [task.split("]", 1)[0] for task in tasks if re.search(r"^changed:", task, re.M)]


def play(machines: Machines, directory: Path, playbook: str, *arguments: str, expect: int = 0) -> Played:
    """By the inventory `hosts.yml` in `directory`."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory / "cp"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    argv = [*machines.before(), program, "-i", str(directory / "hosts.yml"), *arguments]
    done = subprocess.run(
        [*argv, str(ANSIBLE / "playbooks" / playbook)],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == expect, done.stdout
    return Played(done.stdout)


def end_connections(directory: Path) -> None:
    """Those that Ansible keeps open."""
    for control in (directory / "cp").glob("*"):
        subprocess.run(["ssh", "-O", "exit", "-S", str(control), "any"], capture_output=True, timeout=30)


def common(machines: Machines) -> dict[str, object]:
    """Variables of every inventory: how the machines are reached."""
    known = machines.directory / "known_hosts"
    return {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(machines.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes",
        "ansible_python_interpreter": "/usr/bin/python3",
        "backupctl_systemd": False,
    }
