"""A source that several workers store: one snapshot, the one that a single worker makes, whoever dies, sleeps or is slow."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import update

from backupctl.catalog.catalog import Catalog, FencedError
from backupctl.catalog.models import Run, Stretch
from backupctl.clock import FakeClock, SystemClock
from backupctl.config.load import load
from backupctl.errors import ConfigError, LockedError, UnreachableError
from backupctl.operations import dividing
from backupctl.repository import stretches
from backupctl.repository.check import check
from backupctl.scheduling.dispatch import look, ready, settle
from backupctl.scheduling.tags import needs, queues_for
from backupctl.scheduling.timetables import is_configured
from backupctl.sources.files import FilesSession
from tests.scheduling.fleet_site import (
    FleetSite,
    an_hour_ago,
    code_of,
    new_database,
    stop_before,
    until,
    wait_before,
    wait_stopped,
)
from tests.servers.databases import PostgresServer
from tests.servers.plugin_sshd import ssh_options
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.servers

FILES = 24


class DividedSite(FleetSite):
    """Eight directories of three files, one stretch each, with a file that has links in two of them, and one file beside."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.options = ", host: shared, split: 3"
        self.settings = self.written(self.url)
        for number in range(FILES):
            directory = self.place / "data" / f"{number % 8}-directory"
            directory.mkdir(exist_ok=True)
            (directory / f"file {number}").write_bytes(os.urandom(70_000))
        os.link(self.place / "data" / "1-directory" / "file 1", self.place / "data" / "5-directory" / "link")

    def lead(self, run_id: str, *, until_told: bool = True) -> int:
        """The process that has the run; it stores the rest, asks for helpers, and waits until `go` before it takes a stretch."""
        prepare = lambda: wait_before(dividing.Part, "take", self.place / "waits", self.place / "go")  # noqa: E731
        pid = self.fork(run_id, prepare if until_told else lambda: None)
        if until_told:
            until((self.place / "waits").exists, "the lead to hand out its stretches")
        return pid

    def go(self) -> None:
        (self.place / "go").touch()

    def helpers(self) -> list[Run]:
        with self.context() as context:
            return sorted(context.catalog.runs(kind="stretch"), key=lambda run: run.name)

    def hold_up(self, hand: str) -> None:
        """As if the stretches that this run has had not moved for an hour."""
        with self.context() as context, context.catalog.writing() as session:
            session.execute(update(Stretch).where(Stretch.hand == hand).values(taken=an_hour_ago()))

    def row(self, run_id: str) -> Run:
        with self.context() as context:
            run = context.catalog.run(run_id)
        assert run is not None
        return run

    def single(self) -> bytes:
        """The tree that one worker makes of it."""
        self.options = ", host: shared"
        self.settings = self.written(self.url)
        run_id = self.queued()
        assert self.execute(run_id) == 0
        return self.tree(run_id)

    def left_over(self) -> list[str]:
        with self.context() as context:
            return context.resources.repository("main").records("stretch")


@pytest.fixture
def site(tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[DividedSite]:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    monkeypatch.setattr(stretches, "LEAST", 200_000)
    site = DividedSite(tmp_path, new_database(postgres_server))
    yield site
    site.close()


def sound(site: DividedSite, run_id: str) -> None:
    """Complete, one snapshot, every byte there, and the tree of a single worker."""
    run = site.row(run_id)
    assert (run.state, run.exit_code, run.problems) == ("complete", 0, [])
    assert run.summary["files"] == 3 + FILES + 1
    assert site.left(run_id)[0] == [run.snapshot]
    with site.context() as context:
        assert check(context.resources.repository("main"), read_data=True).problems == []
    assert site.tree(run_id) == site.single()


def test_helpers_store_all_of_it_and_the_snapshot_is_that_of_one_worker(site: DividedSite) -> None:
    run_id = site.queued()
    lead = site.lead(run_id)
    first, second = site.helpers()
    assert (first.name, second.name, first.state) == ("site/www/1", "site/www/2", "queued")
    assert site.execute(first.id) == 0
    assert site.row(first.id).message == "8 of 8 stretches"
    site.go()
    assert code_of(lead) == 0
    assert [run.state for run in site.helpers()] == ["complete", "skipped"]
    assert site.row(second.id).message == "no worker was free for it"
    assert site.left_over() == []
    sound(site, run_id)


def test_a_source_behind_ssh_is_divided_the_same(site: DividedSite, sshd: Sshd) -> None:
    site.shared = f"ssh: {json.dumps(ssh_options(sshd).model_dump(mode='json', exclude_defaults=True))}"
    site.settings = site.written(site.url)
    run_id = site.queued()
    lead = site.lead(run_id)
    assert site.execute(site.helpers()[0].id) == 0
    site.go()
    assert code_of(lead) == 0
    assert site.row(site.helpers()[0].id).message == "8 of 8 stretches"
    sound(site, run_id)


def test_where_no_helper_comes_the_run_does_it_all(site: DividedSite) -> None:
    run_id = site.queued()
    assert site.execute(run_id) == 0
    assert [run.state for run in site.helpers()] == ["skipped", "skipped"]
    sound(site, run_id)


def test_a_helper_that_is_killed_in_the_middle_loses_its_stretch_and_nothing_else(site: DividedSite) -> None:
    run_id = site.queued()
    lead = site.lead(run_id)
    helper = site.fork(site.helpers()[0].id, lambda: stop_before(stretches, "save_stretch"))
    wait_stopped(helper)
    os.kill(helper, signal.SIGKILL)
    os.waitpid(helper, 0)
    site.silence(site.helpers()[0].id)
    with site.context() as context:
        assert len(settle(context.catalog, context.clock, context.settings.fleet)) == 1, "the lead lives"
    assert [(run.state, run.options.get("taken_over")) for run in site.helpers()] == [("queued", 1), ("queued", None)]
    assert site.execute(site.helpers()[1].id) == 0
    assert site.row(site.helpers()[1].id).message == "8 of 8 stretches", "that of the dead one is among them"
    site.go()
    assert code_of(lead) == 0
    sound(site, run_id)


def test_a_helper_that_lives_and_gets_nowhere_loses_its_stretch(site: DividedSite) -> None:
    run_id = site.queued()
    lead = site.lead(run_id)
    helper = site.fork(
        site.helpers()[0].id, lambda: wait_before(Catalog, "finish_stretch", site.place / "hangs", site.place / "on")
    )
    until((site.place / "hangs").exists, "the helper to have stored its stretch")
    site.hold_up(site.helpers()[0].id)
    site.go()
    assert code_of(lead) == 0
    (site.place / "on").touch()
    assert code_of(helper) in (0, 130), "what it says now counts for nothing"
    sound(site, run_id)


def test_what_helpers_do_for_a_run_that_was_taken_over_counts_for_nothing(site: DividedSite) -> None:
    run_id = site.queued()
    lead = site.fork(run_id, lambda: stop_before(dividing.Part, "take"))
    wait_stopped(lead)
    helper = site.fork(site.helpers()[0].id, lambda: stop_before(Catalog, "finish_stretch"))
    wait_stopped(helper)
    assert {one.kind for one in site.take_over()} == {"backup", "stretch"}
    assert site.execute(run_id) == 0
    for pid in (helper, lead):
        os.kill(pid, signal.SIGCONT)
        assert code_of(pid) == LockedError.exit_code
    sound(site, run_id)


def test_a_helper_that_gets_on_is_waited_for(site: DividedSite) -> None:
    """However much longer than the others its stretch takes."""
    clock = FakeClock(SystemClock().now())
    catalog = Catalog.open(site.url, clock=clock)
    lead, helper = (catalog.enqueue("backup", name, clock.now(), trigger="schedule") for name in ("lead", "helper"))
    assert lead is not None and helper is not None
    for run in (lead, helper):
        assert catalog.claim(run.id, "somebody") is not None
    catalog.add_stretches("plan", 1, run=lead.id, epoch=1)
    assert catalog.take_stretch("plan", helper.id, 1) == 0
    for _ in range(5):
        clock.advance(50)
        assert catalog.take_stretch("plan", lead.id, 1, late=clock.now() - timedelta(seconds=60)) is None
        catalog.stretch_moves("plan", 0, helper.id, 1)
    clock.advance(70)
    assert catalog.take_stretch("plan", lead.id, 1) is None
    assert catalog.take_stretch("plan", lead.id, 1, late=clock.now() - timedelta(seconds=60)) == 0
    assert not catalog.finish_stretch("plan", 0, helper.id, 1, "a" * 64)
    assert catalog.finish_stretch("plan", 0, lead.id, 1, "b" * 64)
    catalog.cancel(lead.id, message="over")
    with pytest.raises(FencedError):
        catalog.take_stretch("plan", helper.id, 1)
    catalog.add_stretches("next", 1, run=helper.id, epoch=1)
    assert catalog.stretches("plan") == [], "its run is over"
    catalog.close()


def test_a_helper_that_sees_other_files_stores_none(site: DividedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = site.queued()
    lead = site.lead(run_id)
    monkeypatch.setattr(FilesSession, "inodes", lambda self: [7])
    helper = site.helpers()[0]
    assert site.execute(helper.id) == 1
    assert "shows this worker another place" in site.row(helper.id).message
    site.go()
    assert code_of(lead) == 0
    sound(site, run_id)


def test_a_file_that_a_helper_cannot_read_is_left_to_others_who_may(
    site: DividedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = site.queued()
    lead = site.lead(run_id)
    with monkeypatch.context() as there:

        def broken(self: FilesSession, directories: object) -> Iterator[object]:
            raise OSError(5, "Input/output error")
            yield

        there.setattr(FilesSession, "stretch", broken)
        helper = site.helpers()[0]
        assert site.execute(helper.id) == 1
    assert "Input/output error" in site.row(helper.id).message
    site.go()
    assert code_of(lead) == 0
    assert site.left_over() == []
    sound(site, run_id)


def test_a_catalog_that_is_away_for_a_while_costs_no_file(site: DividedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dividing, "POLL_SECONDS", 0.01)
    asked = count()

    def failing(answer: Callable[..., object]) -> Callable[..., object]:
        def now_and_then(*arguments: object, **options: object) -> object:
            if next(asked) % 3 == 0:
                raise UnreachableError("nobody answers")
            return answer(*arguments, **options)

        return now_and_then

    for name in ("take_stretch", "finish_stretch", "stretches"):
        monkeypatch.setattr(Catalog, name, failing(getattr(Catalog, name)))
    run_id = site.queued()
    assert site.execute(run_id) == 0
    sound(site, run_id)


def test_a_source_is_not_divided_when_nobody_can_be_asked_for_help(
    site: DividedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Catalog, *arguments: object, **options: object) -> None:
        raise UnreachableError("nobody answers")

    monkeypatch.setattr(Catalog, "add_stretches", away)
    run_id = site.queued()
    assert site.execute(run_id) == 0
    assert site.helpers() == []
    sound(site, run_id)


def test_a_run_that_is_stopped_takes_its_helpers_with_it(site: DividedSite) -> None:
    run_id = site.queued()
    lead = site.lead(run_id)
    os.kill(lead, signal.SIGTERM)
    assert code_of(lead) == 130
    assert [run.state for run in site.helpers()] == ["skipped", "skipped"]
    assert site.left(run_id)[0] == []


def test_what_an_interrupted_run_leaves_is_whole_for_the_next(site: DividedSite) -> None:
    """A partial of a divided source would have holes where the stretches were."""
    before = site.queued()
    assert site.execute(before) == 0
    run_id = site.queued()
    lead = site.lead(run_id)
    os.kill(lead, signal.SIGTERM)
    assert code_of(lead) == 130
    again = site.queued()
    assert site.execute(again) == 0
    assert site.row(again).summary["unchanged_files"] == 3 + FILES + 1
    assert site.tree(again) == site.tree(before)


def test_helpers_are_dispatched_as_runs_of_the_hosts_and_repository_of_their_source(site: DividedSite) -> None:
    lead = site.lead(site.queued())
    with site.context() as context:
        waiting = look(context.catalog, context.clock, context.settings)
        running = context.catalog.runs(states=("running",))
        chosen = ready(context.settings, [], running, waiting, context.clock.now())
        assert [run.name for run in chosen] == ["site/www/1", "site/www/2"]
        one_at_a_time = context.settings.model_copy(
            update={"concurrency": context.settings.concurrency.model_copy(update={"repository": 2})}
        )
        assert len(ready(one_at_a_time, [], running, waiting, context.clock.now())) == 1
        assert all(is_configured(context.settings, run) for run in chosen)
        assert needs(context.settings, "stretch", "site/www/1") == {"files"}
        assert queues_for(context.settings, ["files"]) == ["any", "files"]
    site.go()
    assert code_of(lead) == 0


def test_dividing_needs_a_fleet_and_a_place_that_its_workers_share(site: DividedSite) -> None:
    text = (site.place / "backupctl.yaml").read_text()
    faults = {
        text.replace("fleet:", "# fleet:"): "there is no `fleet`",
        text.replace("host: shared, ", ""): "each worker's own machine",
        text.replace("split: 3", "split: 1"): "greater than or equal to 2",
        text.replace(f"[{site.place}/data]", "[/]"): "name them instead of `/`",
    }
    for wrong, words in faults.items():
        (site.place / "backupctl.yaml").write_text(wrong)
        with pytest.raises(ConfigError, match=words):
            load(site.place / "backupctl.yaml")
