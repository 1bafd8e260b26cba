"""A service in real processes: a changed configuration under it, a broken one; `run --due` beside itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.config.handover import from_text, to_text
from backupctl.config.load import load
from backupctl.config.resources import Resources
from backupctl.operations.context import Context
from backupctl.scheduling.reload import Registration
from tests.config.test_load import JOB, write
from tests.faults.test_signals import PATIENCE_SECONDS, WaitingSite, opened_catalog, seen_before, until, waiting
from tests.scheduling.night import NIGHTLY, Night, configuration


def test_what_is_handed_over_is_what_was_loaded(tmp_path: Path) -> None:
    settings = load(write(tmp_path, website=JOB))
    assert from_text(to_text(settings)) == settings
    full = (
        'cron: "1 2 * * 7", allowed: [{from: "22:00", to: "06:00"}], retries: {times: 2}, overlap: queue, then: [check]'
    )
    settings = configuration(tmp_path, {"site": full}, more="concurrency: {total: 2}")
    assert from_text(to_text(settings)) == settings


__all__ = ["waiting"]


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        self.heard.append((kind, message))

    def progress(self, *arguments: Any, **fields: Any) -> None:
        return


def registered(made: Night) -> tuple[Registration, Listener]:
    listener = Listener()
    context = Context(made.settings, made.catalog, Resources(made.settings, made.clock), made.clock, listener)
    registration = Registration(context, made.service, lambda: load(made.settings.path))
    registration.begin()
    return registration, listener


def test_a_changed_job_is_in_force_at_once_and_what_waits_is_not_lost(tmp_path: Path) -> None:
    made = Night(configuration(tmp_path, {"site": NIGHTLY, "other": NIGHTLY}), tmp_path)
    made.look()
    made.clock.advance(15 * 3600)
    made.service = made.restarted()
    hold, made.service._launch = made.service._launch, lambda run: 75
    made.service.tick()[0].result(timeout=30)  # put down, and not started
    assert len(made.catalog.runs(states=("queued",))) == 2
    registration, listener = registered(made)
    configuration(tmp_path, {"site": 'cron: "0 4 * * *"', "new": NIGHTLY})
    made.service._launch = hold
    assert registration.reload()
    made.service.close()
    assert made.rows() == [("21 02:15", "catch_up", "complete")], "queued before, run after"
    assert [row[2] for row in made.rows(name="other")] == ["skipped"]
    assert "cron" not in made.settings.jobs and sorted(made.service.settings.jobs) == ["new", "site"]
    assert ("serve", "new configuration in force; jobs: site, new") in listener.heard
    (row,) = made.catalog.schedulers()
    assert row.loaded == row.asked and row.refused == ""
    registration.end()
    assert made.catalog.schedulers() == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [("jobz: {}", "unknown key; did you mean 'jobs'?"), ("{", ""), ("catalog: sqlite:///elsewhere.db", "has moved")],
)
def test_a_broken_one_is_refused_loudly_and_the_old_one_stays(tmp_path: Path, broken: str, said: str) -> None:
    made = Night(configuration(tmp_path), tmp_path)
    registration, listener = registered(made)
    path = tmp_path / "backupctl.yaml"
    path.write_text(f"{path.read_text()}\n{broken}\n")
    assert not registration.reload()
    ((kind, message),) = listener.heard
    assert kind == "error" and "REFUSED, the old one stays in force" in message and said in message
    assert made.service.settings is made.settings
    (row,) = made.catalog.schedulers()
    assert said in row.refused and row.refused and row.asked is not None
    made.service.close()


def serving(waiting: WaitingSite) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    seen_before(waiting.site, timedelta(days=2))
    return waiting.started("serve")


def schedulers(waiting: WaitingSite) -> list[Any]:
    with opened_catalog(waiting.site.root) as catalog:
        return catalog.schedulers()


def test_config_reload_in_the_middle_of_a_run(waiting: WaitingSite) -> None:
    """The run goes on and is complete; a broken file is refused here and by the service, a good one taken."""
    job = waiting.site.root / "jobs" / "site.yaml"
    good = job.read_text()
    with serving(waiting) as process:
        waiting.worker()
        job.write_text(good + "\nretentoin: {}\n")
        refused = waiting.site.run("config", "reload", expect=13)
        assert "retentoin" in refused.text
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: bool(schedulers(waiting)[0].refused), "the service refused it")
        assert "REFUSED, the old one stays in force" in waiting.said
        job.write_text(good.replace('"15 2 * * *"', '"30 3 * * *"'))
        taken = waiting.site.run("config", "reload")
        assert "1 service took" in taken.out and schedulers(waiting)[0].refused == ""
        (going,) = [run for run in waiting.runs() if run.state == "running"]
        waiting.go()
        with opened_catalog(waiting.site.root) as catalog:
            until(lambda: bool(catalog.runs(states=("complete",))), "the run that went on is complete")
            ended = catalog.run(going.id)
        assert ended is not None and ended.state == "complete"
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert schedulers(waiting) == []
    none = waiting.site.run("config", "reload", expect=10)
    assert "no `serve`" in none.text


def test_a_run_that_starts_while_the_files_are_broken_has_the_old_configuration(waiting: WaitingSite) -> None:
    job = waiting.site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace('"15 2 * * *"', '"15 2 * * *", then: [check]'))
    with serving(waiting) as process:
        waiting.worker()
        job.write_text("nonsense: [")
        waiting.go()
        with opened_catalog(waiting.site.root) as catalog:
            until(
                lambda: bool(catalog.runs(kind="check", states=("complete",))), "the check after the backup is complete"
            )
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, waiting.said


def test_run_due_twice_at_once_starts_everything_once(waiting: WaitingSite) -> None:
    """The steps after the backup too, by whichever of the two is there; the next call finds nothing to do."""
    job = waiting.site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace('"15 2 * * *"', '"15 2 * * *", then: [check, prune]'))
    seen_before(waiting.site, timedelta(days=2))
    waiting.go()
    both = [waiting.site.start("run", "--due") for _ in range(2)]
    for process in both:
        waiting.site.ended(process, expect=(0, 75))
    waiting.site.run("run", "--due")
    with opened_catalog(waiting.site.root) as catalog:
        made = [(run.kind, run.trigger, run.state) for run in reversed(catalog.runs()) if run.trigger != "first_seen"]
    assert made == [
        ("backup", "catch_up", "complete"),
        ("check", "after", "complete"),
        ("prune", "after", "complete"),
    ]
