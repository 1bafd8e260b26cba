"""Looking before a drill; tidying after a killed one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backupctl.errors import NoSuchError, UserError
from backupctl.hosts.staging import register
from backupctl.operations.context import Context
from backupctl.operations.plan import clean_staging, plan_drill
from tests.end_to_end.site import Site


@pytest.fixture
def scratch(context: Context) -> Path:
    options = context.settings.hosts["staging"]
    register(context.resources.host("staging"), str(options.scratch).encode(), "staging")
    return Path(str(options.scratch))


def test_without_a_snapshot_there_is_nothing_to_rehearse(context: Context) -> None:
    with pytest.raises(NoSuchError, match="no complete snapshot to rehearse"):
        plan_drill(context, "site/full")


def test_a_plan_says_what_where_and_how_much(tmp_path: Path) -> None:
    site = Site.create(tmp_path).prepare()
    site.run("run")
    planned = site.run("drill", "plan", "site/full", "--json").line("plan")
    assert (planned["drill"], planned["host"], planned["scratch"]) == (
        "site/full",
        "staging",
        str(tmp_path / "staging"),
    )
    assert planned["sources"] == ["db", "www"]
    assert planned["files"] == 5
    assert planned["bytes"] > 700_000
    shown = site.run("drill", "plan", "site/full").out
    assert "Nothing outside that directory is touched." in shown
    assert [one.name for one in (tmp_path / "staging").iterdir()] == ["backupctl-staging.json"], "nothing was done"


def test_what_a_killed_drill_left_is_removed_and_nothing_else(context: Context, scratch: Path) -> None:
    left = scratch / "drill-0123456789ab"
    (left / "files" / "deep").mkdir(parents=True)
    (left / "files" / "deep" / "secret.txt").write_text("restored")
    os.utime(left, (1_000_000_000, 1_000_000_000))
    (scratch / "mine").mkdir()
    removed = clean_staging(context, "staging")
    assert any(left.name in line for line in removed)
    assert sorted(one.name for one in scratch.iterdir()) == ["backupctl-staging.json", "mine"]
    assert clean_staging(context, "staging") == []
    assert [event.action for event in context.catalog.events()].count("drill.cleanup") == 1


def test_without_the_marker_nothing_is_removed(context: Context) -> None:
    scratch = Path(str(context.settings.hosts["staging"].scratch))
    (scratch / "drill-0123456789ab").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        clean_staging(context, "staging")
    assert "host register" in caught.value.next_step
    assert (scratch / "drill-0123456789ab").is_dir()


@pytest.mark.parametrize("name", ["local", "nope"])
def test_only_a_staging_host_is_cleaned(name: str, context: Context) -> None:
    with pytest.raises(NoSuchError, match="known: staging"):
        clean_staging(context, name)
