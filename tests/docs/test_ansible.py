"""What can be said of the roles without Ansible: they are YAML, use its own modules only, and name files that exist."""

from __future__ import annotations

import re

import pytest
from ruamel.yaml import YAML

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


def test_included_templates_exist() -> None:
    templates = ANSIBLE / "roles" / "orchestrator" / "templates"
    for name in ("backupctl.service", "backupctl-due.service", "backupctl-due.timer"):
        text = (templates / f"{name}.j2").read_text()
        for included in re.findall(r"include '([^']+)'", text):
            assert (templates / included).is_file()


def load(path):
    return YAML(typ="safe", pure=True).load(path.read_text())
