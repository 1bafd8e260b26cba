"""Tags, queues, messages, draining, and what a worker refuses."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run, Worker
from backupctl.clock import FakeClock, SystemClock
from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.errors import ConfigError
from backupctl.operations.context import Context
from backupctl.scheduling import fleet, release
from backupctl.scheduling.fleet import MOST_APART, FleetQueue, FleetWorker, check_clock, fleet_of
from backupctl.scheduling.messages import Message, Messages
from backupctl.scheduling.planning import explain
from backupctl.scheduling.release import digest
from backupctl.scheduling.service import Service
from backupctl.scheduling.sweep import sweep
from backupctl.scheduling.tags import needs, nobody_takes, queue_of, queues_for, unserved
from tests.scheduling.fleet_site import new_database
from tests.scheduling.night import NIGHTLY, START, configuration
from tests.servers.databases import PostgresServer

MAIN = """\
version: 1
catalog: "{url}"
fleet: {{heartbeat: 1s, stalled_after: 3s}}
hosts: {{web1: {{local: {{}}, needs: [dmz]}}, staging: {{local: {{}}, role: staging, scratch: x, needs: [lab]}}}}
repositories:
  near: {{storage: {{local: {{path: near}}}}, password: {{file: key}}}}
  far: {{storage: {{local: {{path: far}}}}, password: {{file: key}}, needs: [offsite, slow]}}
jobs:
  site:
    sources: {{www: {{files: {{host: web1, paths: [/etc]}}}}}}
    repository: near
    copies: [far]
    objectives: {{rpo: 24h, rto: 2h}}
    schedule: {{cron: "15 2 * * *"}}
    drills: {{full: {{on: staging}}}}
"""


def written(place: Path, url: str = "postgresql+psycopg://nobody@127.0.0.1/none") -> Settings:
    (place / "backupctl.yaml").write_text(MAIN.format(url=url))
    return load(place / "backupctl.yaml")


def test_a_run_needs_what_its_hosts_and_repositories_need(tmp_path: Path) -> None:
    settings = written(tmp_path)
    assert needs(settings, "backup", "site") == {"dmz", "offsite", "slow"}
    assert needs(settings, "copy", "site") == {"offsite", "slow"}
    assert needs(settings, "drill", "site/full") == {"lab"}
    assert needs(settings, "check", "near") == needs(settings, "backup", "gone") == frozenset()
    assert queue_of({"slow", "offsite"}) == "offsite,slow" and queue_of(()) == "any"
    assert len(queue_of({f"a-long-name-of-a-network-{number}" for number in range(9)})) == 40


def test_a_worker_serves_the_queues_whose_tags_it_has(tmp_path: Path) -> None:
    settings = written(tmp_path)
    assert queues_for(settings, []) == ["any"]
    assert queues_for(settings, ["lab", "other"]) == ["any", "lab"]
    assert queues_for(settings, ["dmz", "offsite", "slow"]) == ["any", "dmz,offsite,slow", "offsite,slow"]
    assert unserved(settings, [["lab"], ["dmz", "offsite"]]) == ["dmz, offsite, slow", "offsite, slow"]
    assert unserved(settings, []) == ["dmz, offsite, slow", "lab", "none", "offsite, slow"]
    assert unserved(settings, [["lab"], ["dmz", "offsite", "slow"]]) == []


def test_what_no_worker_can_take_says_why_it_waits(tmp_path: Path) -> None:
    settings, clock = written(tmp_path), FakeClock(START)
    catalog = Catalog.in_memory(clock=clock)
    run = catalog.enqueue("backup", "site", clock.now(), trigger="schedule")
    assert run is not None

    def late() -> str:
        [lapse] = [one for one in sweep(settings, catalog, clock.now()) if one.what == "late"]
        return lapse.message.partition(": ")[2]

    def worker(name: str, *tags: str) -> None:
        at = clock.now()
        catalog.add_worker(
            Worker(name=name, identity=name, release="", configuration="", tags=list(tags), parallel=1, started=at, seen=at,
                   draining=None, reason="")
        )  # fmt: skip

    clock.advance(3600)
    assert late() == "no worker takes anything: see backupctl worker list"
    worker("near", "dmz")
    assert late() == "no worker has what it needs: dmz, offsite, slow; see backupctl worker list"
    waits = [
        words for topic, words in explain(settings, catalog, settings.jobs["site"], clock.now()) if topic == "waits"
    ]
    assert waits == ["backup site: no worker has what it needs: dmz, offsite, slow; see backupctl worker list"]
    worker("far", "dmz", "offsite", "slow")
    assert late() == "nothing starts it: does `serve` or `run --due` run?"
    catalog.drain_workers(["far"], reason="update")
    assert "no worker has what it needs" in late()
    assert (
        nobody_takes(
            settings, catalog.workers(), catalog.draft("check", "near", START, trigger="schedule"), clock.now()
        )
        == ""
    )
    clock.advance(10)
    assert late() == "no worker takes anything: see backupctl worker list", "they are silent"
    catalog.close()


def test_only_what_a_machine_may_have_for_itself_is_left_out_of_the_digest(tmp_path: Path) -> None:
    settings = written(tmp_path)
    assert digest(settings) == digest(written(tmp_path, "postgresql+psycopg://nobody@elsewhere/none"))
    (tmp_path / "backupctl.yaml").write_text(MAIN.format(url="postgresql://x/y").replace("rpo: 24h", "rpo: 25h"))
    assert digest(settings) != digest(load(tmp_path / "backupctl.yaml"))


def test_a_fleet_needs_a_server_and_some_patience(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a catalog that many machines reach"):
        configuration(tmp_path, more="fleet: {}")
    with pytest.raises(ConfigError, match="at least three times"):
        configuration(tmp_path, more="catalog: postgresql://x/y\nfleet: {heartbeat: 1m}")
    with pytest.raises(ConfigError, match="has no fleet"):
        fleet_of(configuration(tmp_path, {"site": NIGHTLY}))


@pytest.fixture
def context(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Context]:
    with Context.open(written(tmp_path, new_database(postgres_server)), clock=SystemClock()) as context:
        yield context


@pytest.fixture
def messages(context: Context) -> Iterator[Messages]:
    messages = Messages(context.settings.catalog, fleet_of(context.settings))
    messages.prepare()
    messages.prepare()  # there already: nothing to do
    yield messages
    messages.close()


def queued(catalog: Catalog, name: str = "site", kind: str = "backup") -> Run:
    run = catalog.enqueue(kind, name, START, trigger="schedule")
    assert run is not None
    return run


@pytest.mark.servers
def test_a_clock_that_is_wrong_is_refused(context: Context) -> None:
    check_clock(context)
    for seconds in (-2, 2):
        wrong = FakeClock(SystemClock().now() + seconds * MOST_APART)
        with (
            Context.open(context.settings, clock=wrong) as other,
            pytest.raises(ConfigError, match=r"clock is [+-]\d+ s from"),
        ):
            check_clock(other)


@pytest.mark.servers
def test_a_catalog_of_another_release_is_not_changed_by_a_worker(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = new_database(postgres_server)
    with pytest.raises(ConfigError, match="is not that of this release"):
        Catalog.open(url, clock=SystemClock(), upgrade=False)
    Catalog.open(url, clock=SystemClock()).close()
    Catalog.open(url, clock=SystemClock(), upgrade=False).close()


@pytest.mark.servers
def test_a_worker_takes_what_it_can_serve_and_drains(context: Context, messages: Messages) -> None:
    """The message of the backup stays for a worker with other tags; the check's is taken. Then somebody drains it."""
    backup, check = queued(context.catalog), queued(context.catalog, "near", "check")
    FleetQueue(messages).hand_out(context.settings, [backup, check])
    assert messages.pending() == {backup.id, check.id}
    launched: list[str] = []
    taken = threading.Event()

    def launch(run: Run) -> int:
        launched.append(run.id)
        taken.set()
        return 0

    worker = FleetWorker(context, launch, name="one", tags=["lab"])
    serving = threading.Thread(target=worker.serve)
    serving.start()
    assert taken.wait(60)
    [row] = context.catalog.workers()
    assert (row.name, row.tags, row.draining) == ("one", ["lab"], None)
    assert [one.name for one in context.catalog.drain_workers(["one"], reason="a new kernel")] == ["one"]
    assert context.catalog.drain_workers(["one"], reason="again") == []
    serving.join(60)
    assert not serving.is_alive()
    assert launched == [check.id] and worker.refused == ""
    assert context.catalog.workers() == []
    assert messages.pending() == {backup.id}


@pytest.mark.servers
@pytest.mark.parametrize("what", ["release", "configuration"])
def test_another_release_or_configuration_is_refused(
    context: Context, messages: Messages, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run = queued(context.catalog, "near", "check")
    if what == "release":
        with monkeypatch.context() as older:
            older.setattr(fleet, "release", lambda: "0.0.9, procrastinate 3.10.0")
            FleetQueue(messages).hand_out(context.settings, [run])
        expected = f"the scheduler is backupctl 0.0.9, procrastinate 3.10.0, this worker is {release.release()}"
    else:
        messages.offer([Message(run.id, release.release(), "f" * 64, "any")])
        expected = "the scheduler has another configuration than this worker"
    worker = FleetWorker(context, lambda run: pytest.fail("it was executed"), name="one", load=lambda: context.settings)
    with pytest.raises(ConfigError, match="the scheduler") as caught:
        worker.serve()
    assert caught.value.message == worker.refused == expected
    assert messages.pending() == set()  # the next look hands it out again
    row = context.catalog.run(run.id)
    assert row is not None and row.state == "queued"


@pytest.mark.servers
def test_a_configuration_that_is_new_here_as_well_is_taken(context: Context) -> None:
    changed = context.settings.model_copy(update={"jobs": {}})
    worker = FleetWorker(context, lambda run: 0, name="one", load=lambda: changed, tags=["lab"])
    run = queued(context.catalog, "near", "check")
    assert (
        worker.take(run.id, release.release(), digest(changed)) is None and worker.refused
    )  # other queues: start anew
    again = context.settings.model_copy(
        update={"reports": context.settings.reports.model_copy(update={"organisation": "x"})}
    )
    worker = FleetWorker(context, lambda run: 0, name="one", load=lambda: again)
    assert worker.take(run.id, release.release(), digest(again)) == 0
    assert worker.refused == "" and context.settings is again


@pytest.mark.servers
def test_one_scheduler_looks_at_a_time_and_what_is_pending_is_left_alone(context: Context, messages: Messages) -> None:
    handed: list[str] = []

    class Queue(FleetQueue):
        def hand_out(self, settings: Settings, runs: Collection[Run]) -> None:
            handed.extend(run.name for run in runs)
            super().hand_out(settings, runs)

    service = Service(context.settings, context.catalog, context.clock, lambda run: 1, queue=Queue(messages))
    run = queued(context.catalog)
    with context.catalog.alone(0x6261636B0004) as mine:
        assert mine
        service.tick()
        assert handed == []
    service.tick()
    service.tick()
    assert handed == ["site"] and messages.pending() == {run.id}
    claimed = context.catalog.claim(run.id, "w")
    assert claimed is not None
    context.catalog.take_over(run.id, claimed.epoch, message="silent", options={})
    assert messages.pending() == {run.id}
    service.close()


@pytest.mark.servers
def test_a_message_in_the_hands_of_a_silent_worker_is_dropped(context: Context, messages: Messages) -> None:
    run = queued(context.catalog)
    FleetQueue(messages).hand_out(context.settings, [run])
    with messages._connect() as connection:
        row = connection.execute("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id").fetchone()
        assert row is not None
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", row)
        assert messages.pending() == {run.id}
        connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '4 s'")
    assert messages.pending() == set()
