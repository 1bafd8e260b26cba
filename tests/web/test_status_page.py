"""The status page: honest, read-only, escaped, for loopback only."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from backupctl.catalog.models import Check, Drill, Finding, SnapshotRow
from backupctl.clock import FakeClock
from backupctl.errors import UsageError
from backupctl.operations.context import Context
from backupctl.operations.pauses import pause
from backupctl.web.server import StatusServer, application
from tests.end_to_end.site import Site
from tests.operations.conftest import NOW

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def client(context: Context) -> Iterator[TestClient]:
    with TestClient(application(context), base_url="http://127.0.0.1") as client:
        yield client


def healthy(context: Context) -> None:
    context.catalog.add_snapshot(
        SnapshotRow(id="a" * 64, repository="main", job="site", time=NOW - timedelta(hours=1), status="complete")
    )
    context.catalog.add_check(
        Check(id="c", repository="main", mode="read-data", started=NOW, finished=NOW, verdict="pass")
    )
    context.catalog.add_drill(
        Drill(
            id="d",
            job="site",
            drill="site/full",
            scenario="full",
            host="staging",
            repository="main",
            declared=NOW,
            finished=NOW,
            verdict="pass",
            level=4,
            rto_seconds=61.0,
        ),
        [],
    )


def test_nothing_proven_is_not_green(client: TestClient) -> None:
    page = client.get("/").text
    assert "4 things to look at" in page
    for note in ("there is no complete snapshot", "never drilled", "never checked", "no run of it is known"):
        assert note in page
    assert "Nothing to look at" not in page


def test_green_only_when_fresh_checked_and_drilled(client: TestClient, context: Context, clock: FakeClock) -> None:
    healthy(context)
    page = client.get("/").text
    assert "✓ Nothing to look at" in page
    assert "2026-11-20 10:00" in page, "wall clock of the configured zone, Asia/Taipei"
    assert "full: pass, L4" in page
    facts = client.get("/api/status").json()
    assert facts["problems"] == []
    assert facts["jobs"][0]["newest"] == "2026-11-20T02:00:00Z", "UTC for programs"
    clock.advance(86_400)
    old, missed = client.get("/api/status").json()["problems"]
    assert old == "site: the newest complete snapshot is too old"
    assert missed == (
        "backup site: missed: it was due at Sat 2026-11-21 02:15 Asia/Taipei, and there is no snapshot since"
    )


def test_a_failed_run_and_hostile_names_are_told_and_escaped(client: TestClient, context: Context) -> None:
    healthy(context)
    run = context.catalog.enqueue("backup", "site", NOW, trigger="manual")
    assert run is not None
    claimed = context.catalog.claim(run.id, "worker")
    assert claimed is not None
    context.catalog.finish(run.id, claimed.epoch, "failed", exit_code=1, message=f"cannot read {HOSTILE}")
    page = client.get("/").text
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "1 thing to look at" in page


def test_what_status_tells_the_page_tells_too(client: TestClient, context: Context) -> None:
    healthy(context)
    (drill,) = context.catalog.drills()
    drill.rto_seconds = 3 * 3600.0
    context.catalog.add_drill(drill, [])
    context.catalog.open_finding(
        Finding(id="f", source="anomaly", run="r", job="site", severity="critical", title="suspicious", opened=NOW)
    )
    slow, suspicious = client.get("/api/status").json()["problems"]
    assert slow.startswith("site: last drill full: pass, but recovery took 3h")
    assert suspicious.startswith("site: 1 suspicious snapshot(s) that nobody cleared")


def test_a_pause_is_a_thing_to_look_at(client: TestClient, context: Context, clock: FakeClock) -> None:
    healthy(context)
    pause(context, "site", reason="the database moves", until="2d")
    (problem,) = client.get("/api/status").json()["problems"]
    assert problem.startswith("site: paused until 2026-11-22T") and problem.endswith(": the database moves")
    clock.advance(2 * 86_400)
    assert not any("paused" in one for one in client.get("/api/status").json()["problems"])


@pytest.mark.parametrize("path", ["/", "/api/status", "/healthz", "/nothing"])
def test_every_answer_carries_the_strict_headers(path: str, client: TestClient) -> None:
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "<script" not in answer.text
    assert " href=" not in answer.text
    assert " src=" not in answer.text


def test_nothing_can_be_changed_and_no_schema_is_shown(client: TestClient) -> None:
    assert {client.request(method, "/").status_code for method in ("POST", "PUT", "DELETE", "PATCH")} == {405}
    assert {client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")} == {404}


def test_only_loopback_names_are_answered(client: TestClient) -> None:
    """Against a page elsewhere whose name was made to point at 127.0.0.1 (DNS rebinding)."""
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    for name in ("localhost:8642", "127.0.0.1:8642", "[::1]:8642"):
        assert client.get("/", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("0.0.0.0:8642", "does not listen on 0.0.0.0"),
        ("[::]:8642", "does not listen on ::"),
        ("192.0.2.1:80", "no login"),
        ("8642", "is no ADDRESS:PORT"),
        ("127.0.0.1:http", "is no ADDRESS:PORT"),
        ("127.0.0.1:99999", "there is no port 99999"),
    ],
)
def test_other_addresses_are_refused(listen: str, words: str, context: Context) -> None:
    with pytest.raises(UsageError) as caught:
        StatusServer(context, listen)
    assert words in caught.value.message
    assert caught.value.next_step


def test_a_busy_port_is_one_clear_line_before_anything_starts(site: Site) -> None:
    site.prepare()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = site.run("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", expect=2)
    assert "Address already in use" in said.err
    assert "scheduler started" not in said.err


def test_it_serves_until_stopped_and_gives_the_port_back(context: Context) -> None:
    server = StatusServer(context, "127.0.0.1:0")
    server.start()
    try:
        with urllib.request.urlopen(server.url + "healthz", timeout=30) as answer:
            assert answer.read() == b"ok\n"
    finally:
        server.stop()
    port = int(server.url.rpartition(":")[2].strip("/"))
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_metrics_come_from_the_catalog_and_hold_no_word_of_people(client: TestClient, context: Context) -> None:
    healthy(context)
    pause(context, "site", reason=HOSTILE, until="1d")
    before = len(context.resources._repositories)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    newest = (NOW - timedelta(hours=1)).timestamp()
    assert f'backupctl_snapshot_time_seconds{{job="site",repository="main",copy="no"}} {newest!r}' in answer.text
    assert 'backupctl_paused_until_seconds{job="site"}' in answer.text
    assert HOSTILE not in answer.text
    assert str(context.settings.base) not in answer.text
    assert len(context.resources._repositories) == before  # no key and no repository was needed
    assert client.get("/metrics", headers={"host": "evil.example"}).status_code == 421
