"""What can be said of the roles without Ansible: they are YAML, use its own modules only, and name files that exist."""

from __future__ import annotations

import re

import click
import pytest
from ruamel.yaml import YAML

from backupctl.cli.main import cli
from tests.docs.pages import PROJECT

ANSIBLE = PROJECT / "ansible"
ROLES = sorted(path.parents[1] for path in ANSIBLE.glob("roles/*/tasks/main.yml"))
WORDS = {"name", "loop", "loop_control", "when", "register", "notify", "changed_when", "delegate_to", "become_user"}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_roles_use_builtin_modules_only(role) -> None:
    handlers = role / "handlers" / "main.yml"
    named = {one["name"] for one in load(handlers)} if handlers.exists() else set()
    for task in load(role / "tasks" / "main.yml"):
        (module,) = set(task) - WORDS
        assert module.startswith("ansible.builtin."), task["name"]
        assert task.get("notify", "") in {"", *named}, task["name"]


def test_every_variable_in_the_table_has_its_default() -> None:
    defaults = {}
    for role in ROLES:
        defaults |= load(role / "defaults" / "main.yml")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (ANSIBLE / "README.md").read_text(), re.M)
    variables = {
        name: default for name, default in rows if name in defaults or name.startswith(("backupctl_", "staging_"))
    }
    del variables["staging_host"]  # the role of that name
    assert len(variables) > 8
    for name, default in variables.items():
        value = defaults[name]
        shown = (
            str(value).lower()
            if isinstance(value, bool)
            else f"[{', '.join(value)}]"
            if isinstance(value, list)
            else value
        )
        assert default.strip("`") == (shown or "empty"), name


def test_the_command_that_writes_the_units_takes_what_the_role_gives_it() -> None:
    tasks = load(ANSIBLE / "roles" / "orchestrator" / "tasks" / "main.yml")
    (argv,) = [task["ansible.builtin.command"]["argv"] for task in tasks if task.get("register") == "backupctl_files"]
    files = cli.get_command(click.Context(cli), "config").get_command(click.Context(cli), "files")
    known = {name for one in files.params for name in one.opts}
    given = re.findall(r"--[a-z]+", argv)
    assert len(given) > 5
    assert set(given) <= known


def load(path):
    return YAML(typ="safe", pure=True).load(path.read_text())
