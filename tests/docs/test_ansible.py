"""What can be said of the roles without a machine. `tests/end_to_end/test_ansible.py` runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from backupctl.cli.main import cli
from tests.docs.pages import PROJECT

ANSIBLE = PROJECT / "ansible"
TASKS = sorted(
    [*ANSIBLE.glob("roles/*/tasks/*.yml"), *ANSIBLE.glob("roles/*/handlers/*.yml"), *ANSIBLE.glob("playbooks/*.yml")]
)


def test_roles_and_playbooks_stand_to_what_ansible_lint_asks_of_a_collection() -> None:
    """In Ansible's own strictest profile; also parses every playbook with its roles."""
    program = Path(sys.executable).with_name("ansible-lint")
    argv = [str(program), "--offline", "--nocolor", "-q", "-c", ".ansible-lint", "."]
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, cwd=ANSIBLE, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TASKS, ids=lambda path: str(path.relative_to(ANSIBLE)))
def test_builtin_modules_are_used_and_no_others(path) -> None:
    found = list(tasks(load(path)))
    assert found
    for task in found:
        (module,) = [word for word in task if "." in word]
        assert module.startswith("ansible.builtin."), task["name"]


def tasks(some):
    """Also those in plays and blocks."""
    for one in some:
        inner = [each for key in ("tasks", "block", "rescue", "always") for each in one.get(key, [])]
        yield from tasks(inner) if inner else [one]


def test_every_variable_in_the_table_has_its_default() -> None:
    defaults = {}
    for path in ANSIBLE.glob("roles/*/defaults/main.yml"):
        defaults |= load(path)
    rows = re.findall(
        r"^\| `((?:backupctl|source|staging|standby|firewall)_\w+)` \| (.+?) \|",
        (ANSIBLE / "README.md").read_text(),
        re.M,
    )
    assert len(rows) > 8
    roles = {path.name for path in (ANSIBLE / "roles").iterdir()}
    for name, shown in rows:
        if name in roles:
            continue
        assert shown.strip("`").replace("\\|", "|") == _shown(defaults[name]), name


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    return str(value) or "empty"


def test_the_command_that_writes_the_units_takes_what_the_role_gives_it() -> None:
    tasks = load(ANSIBLE / "roles" / "orchestrator" / "tasks" / "install.yml")
    (argv,) = [task["ansible.builtin.command"]["argv"] for task in tasks if task.get("register") == "backupctl_files"]
    files = cli.get_command(click.Context(cli), "config").get_command(click.Context(cli), "files")
    known = {name for one in files.params for name in one.opts}
    given = re.findall(r"--[a-z]+", argv)
    assert len(given) > 5
    assert set(given) <= known


def load(path):
    return YAML(typ="safe", pure=True).load(path.read_text())
