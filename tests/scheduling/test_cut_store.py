"""The network between a worker and the store is cut at several points of a run, its answers lost with it, and comes back or not.

The database is reached by another way, so nobody takes the run over: it goes on by itself, or ends as failed in a bounded time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupctl.config.models import Settings
from backupctl.errors import StoreUnreachableError, Transient
from backupctl.repository.check import check
from backupctl.storage.retry import RetryingStore
from tests.interop.stock import Restic, newest, required
from tests.scheduling.fleet_site import FleetSite, code_of, new_database, until
from tests.scheduling.links import KINDS, Link, namespaces
from tests.servers.databases import PostgresServer
from tests.servers.rgw import Rgw
from tests.soak import rounds

pytestmark = pytest.mark.servers

POINTS = {
    "as it reads what is there": ("", False),
    "before its first pack": ("data/", False),
    "when its first pack is stored": ("data/", True),
    "before its index": ("index/", False),
    "before it decides": ("backupctl/commit/", False),
    "when it has decided": ("backupctl/commit/", True),
    "before its snapshot": ("snapshots/", False),
    "when its snapshot is stored": ("snapshots/", True),
}
EACH_TIME = [
    ("before its first pack", True),
    ("when it has decided", True),
    ("before its index", False),
    ("when its snapshot is stored", False),
]
SECONDS = 60.0


@pytest.fixture
def site(
    tmp_path: Path,
    postgres_server: PostgresServer,
    rgw: Rgw,
    new_bucket: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FleetSite]:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    access, secret = rgw.admin
    (tmp_path / "s3.json").write_text(json.dumps({"access_key_id": access, "secret_access_key": secret}))
    (tmp_path / "s3.json").chmod(0o600)
    storage = f"{{s3: {{bucket: {new_bucket()}, endpoint: '{rgw.http}', credentials: {{file: s3.json}}}}}}"
    site = FleetSite(tmp_path, new_database(postgres_server), storage)
    yield site
    site.close()


def through(settings: Settings, link: Link) -> Settings:
    """The store by that link. Not written as YAML, which refuses `http:` to another machine, as the wire's end looks."""
    main = settings.repositories["main"]
    assert main.storage.s3 is not None
    s3 = main.storage.s3.model_copy(update={"endpoint": f"http://{link.address}:{link.port}"})
    storage = main.storage.model_copy(update={"s3": s3})
    repositories = {"main": main.model_copy(update={"storage": storage})}
    return settings.model_copy(update={"repositories": repositories})


@pytest.fixture(params=["namespace", "relay"][: rounds(1, 2)])
def link(request: pytest.FixtureRequest, rgw: Rgw) -> Iterator[Link]:
    kind = "relay" if namespaces() else request.param
    laid = KINDS[kind](int(rgw.http.rpartition(":")[2]))
    yield laid
    laid.close()


@pytest.mark.parametrize(
    ("point", "comes_back"),
    (rounds(0, 1) and [(point, back) for point in POINTS for back in (True, False)]) or EACH_TIME,
)
def test_cut_off_from_the_store(site: FleetSite, link: Link, point: str, comes_back: bool) -> None:
    far = through(site.settings, link)
    run_id, reached, go, waited = site.queued(), site.place / "reached", site.place / "go", site.place / "waited"

    def prepare() -> None:
        link.enter()
        be_impatient(waited, total_seconds=30 if comes_back else 2)
        stop_at(*POINTS[point], reached, go)

    worker = site.fork(run_id, prepare, far)
    link.connect(worker)
    until(reached.exists, point)
    link.cut()
    go.touch()
    began = time.monotonic()
    if comes_back:
        until(waited.exists, "the first attempt that failed")
        link.heal()
        assert code_of(worker) == 0
        snapshots, run = site.left(run_id)
        assert snapshots == [run.snapshot] and (run.state, run.epoch) == ("complete", 1)
        assert sizes(site, "data/") < 2_500_000, "what had arrived was not stored twice"
    else:
        assert code_of(worker) == StoreUnreachableError.exit_code
        assert time.monotonic() - began < SECONDS
        snapshots, run = site.left(run_id)
        assert len(snapshots) == (1 if POINTS[point] == ("snapshots/", True) else 0)
        assert (run.state, run.epoch, run.summary.get("transient")) == ("failed", 1, True)
        assert "gave up after" in run.message
        again = site.queued()
        assert site.execute(again) == 0
        snapshots, run = site.left(again)
        assert snapshots == [run.snapshot] and run.state == "complete"
        assert sizes(site, "data/") < 2_500_000, "it went on from what the first had stored"
    with site.context() as context:
        assert not check(context.resources.repository("main"), read_data=True).problems
        assert not list(context.resources.store("main").list("locks/"))
    sound_to_restic(site)


def sizes(site: FleetSite, prefix: str) -> int:
    with site.context() as context:
        return sum(one.size for one in context.resources.store("main").list(prefix))


def sound_to_restic(site: FleetSite) -> None:
    required()
    with site.context() as context:
        store = context.resources.store("main")
        for one in store.list():
            path = site.place / "downloaded" / one.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.get(one.name))
    restic = Restic(newest(), site.place, "a password")
    assert "no errors were found" in restic(site.place / "downloaded", "check", "--read-data")


def be_impatient(waited: Path, *, total_seconds: float) -> None:
    """Short of the patience that a night has, so that a test need not wait for it. `waited` appears when a try has failed."""
    from backupctl.storage.s3 import S3Store

    S3Store.__init__.__kwdefaults__.update(connect_timeout_seconds=0.5, read_timeout_seconds=0.5)
    RetryingStore.__init__.__kwdefaults__.update(first_delay_seconds=0.2, total_seconds=total_seconds)
    from backupctl.storage import retry

    wait = retry._Patience.wait

    def telling(self: retry._Patience, error: Transient) -> None:
        waited.touch()
        wait(self, error)

    retry._Patience.wait = telling  # type: ignore[method-assign]  # of the worker's process alone


def stop_at(prefix: str, stored: bool, reached: Path, go: Path) -> None:
    """This process says that it has come to its first object of this prefix, and goes on when it may; with `stored`,
    the object arrives before that, and its answer is lost. Without a prefix: when it looks for snapshots."""
    from backupctl.storage.s3 import S3Store

    put, list_ = S3Store.put, S3Store.list

    def wait() -> None:
        reached.touch()
        until(go.exists, "the test to go on")

    def putting(self: S3Store, name: str, data: bytes, *, if_absent: bool = False) -> None:
        if prefix and name.startswith(prefix) and not reached.exists():
            if stored:
                put(self, name, data, if_absent=if_absent)
            wait()
            if stored:
                raise Transient("the answer was lost", name=name)
        put(self, name, data, if_absent=if_absent)

    def listing(self: S3Store, name: str = ""):  # type: ignore[no-untyped-def]  # as the method it stands in for
        if not prefix and name == "snapshots/" and not reached.exists():
            wait()
        return list_(self, name)

    S3Store.put = putting  # type: ignore[method-assign]  # of the worker's process alone
    S3Store.list = listing  # type: ignore[method-assign]  # likewise
