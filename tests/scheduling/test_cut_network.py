"""The network between a worker and the database, and between a worker and the store, is cut in the middle of a run.

In network namespaces where they are permitted, else by a relay that stops: then only the way in which packets vanish differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupctl.errors import LockedError
from tests.scheduling.fleet_site import FleetSite, FlyingClock, code_of, new_database, until, wait_before_put
from tests.scheduling.links import KINDS, Link, namespaces
from tests.servers.databases import PostgresServer

pytestmark = pytest.mark.servers


@pytest.fixture(params=["relay", "namespace"])
def lay(request: pytest.FixtureRequest) -> Iterator[Callable[[int | str], Link]]:
    if request.param == "namespace" and (reason := namespaces()):
        pytest.skip(f"{reason}; the relay stands in for it")
    laid: list[Link] = []

    def make(target: int | str) -> Link:
        laid.append(KINDS[request.param](target))
        return laid[-1]

    yield make
    for link in laid:
        link.close()


@pytest.fixture
def site(tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetSite]:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    site = FleetSite(tmp_path, new_database(postgres_server))
    yield site
    site.close()


def through(site: FleetSite, link: Link, server: PostgresServer) -> str:
    """The catalog's address by that link."""
    database = site.url.partition("@/")[2].partition("?")[0]
    role = database.replace("fleet_", "role_")
    server.sql(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'geheim'")
    passfile = site.place / "pgpass"
    passfile.write_text(f"*:*:*:{role}:geheim\n")
    passfile.chmod(0o600)
    return f"postgresql+psycopg://{role}@{link.address}:{link.port}/{database}?passfile={passfile}"


def test_cut_off_from_the_database(
    site: FleetSite, lay: Callable[[int | str], Link], postgres_server: PostgresServer
) -> None:
    """The worker is in the middle of its run and hears nothing; another executes the run; the network comes back."""
    link = lay(postgres_server.port)
    far = site.settings.model_copy(update={"catalog": through(site, link, postgres_server)})
    run_id, reached, go = site.queued(), site.place / "reached", site.place / "go"

    def prepare() -> None:
        link.enter()
        wait_before_put("index/", reached, go)

    cut_off = site.fork(run_id, prepare, far)
    link.connect(cut_off)
    until(reached.exists, "the worker's first index")
    link.cut()
    [taken] = site.take_over()
    assert taken.state == "queued"
    assert site.execute(run_id) == 0
    link.heal()
    go.touch()
    assert code_of(cut_off) == LockedError.exit_code
    snapshots, run = site.left(run_id)
    assert snapshots == [run.snapshot] and (run.state, run.epoch) == ("complete", 3)


def test_a_worker_that_stays_cut_off_stops_by_itself(
    site: FleetSite, lay: Callable[[int | str], Link], postgres_server: PostgresServer
) -> None:
    """Nobody tells it anything, and it can tell nobody that it has ended; it commits nothing all the same."""
    link = lay(postgres_server.port)
    url = through(site, link, postgres_server) + "&tcp_user_timeout=2000&connect_timeout=2"
    far = site.settings.model_copy(update={"catalog": url})
    run_id, reached, go = site.queued(), site.place / "reached", site.place / "go"

    def prepare() -> None:
        link.enter()
        wait_before_put("index/", reached, go)

    silent = site.place / "silent"
    cut_off = site.fork(run_id, prepare, far, FlyingClock(silent))
    link.connect(cut_off)
    until(reached.exists, "the worker's first index")
    link.cut()
    silent.touch()
    try:
        assert code_of(cut_off) == LockedError.exit_code
        assert site.left(run_id)[0] == []
        assert [run.state for run in site.take_over()] == ["queued"]
        assert site.execute(run_id) == 0
        assert site.left(run_id)[0] == [site.left(run_id)[1].snapshot]
    finally:
        link.heal()
