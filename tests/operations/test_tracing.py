"""A run as a trace, decoded with OpenTelemetry's own messages from what a collector was sent."""

from __future__ import annotations

import gzip
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from backupctl.catalog.models import Drill, Run
from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.operations.context import Context
from backupctl.operations.tracing import export_run
from tests.end_to_end.site import Site
from tests.operations.conftest import NOW, clock, site

__all__ = ["clock", "site"]


class Heard:
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.status = 200


@pytest.fixture
def collector() -> Iterator[tuple[str, Heard]]:
    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            heard.requests.append((self.path, self.headers.get("Authorization", ""), body))
            self.send_response(heard.status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", heard
    server.shutdown()
    thread.join()
    server.server_close()


class Said:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        self.events.append((kind, message))

    def progress(self, *arguments: Any, **named: Any) -> None: ...


def opened(site: Site, clock: FakeClock, endpoint: str, said: Said) -> Context:
    token = site.root / "token"
    token.write_text("Bearer abc-token\n")
    token.chmod(0o600)
    site.configure(main=f"telemetry: {{endpoint: '{endpoint}', authorization: {{file: token}}}}\n")
    return Context.open(load(site.root / "backupctl.yaml"), clock=clock, reporter=said)  # type: ignore[arg-type]  # what a run tells, and no more of it


def a_drill(context: Context) -> Run:
    run = Run(id=str(uuid.uuid4()), kind="drill", name="site/full", scheduled=NOW, trigger="manual", state="failed")
    run.created, run.started, run.finished, run.exit_code, run.epoch = NOW, NOW, NOW.replace(minute=1), 4, 1
    run.repository, run.snapshot, run.summary = "main", "", {"verdict": "fail", "level": 2, "checks": 3}
    row = Drill(id=run.id, job="site", drill="site/full", scenario="full", host="staging", repository="main")
    row.declared, row.finished, row.verdict = NOW, NOW, "fail"
    row.phases = [{"name": "restore", "seconds": 2.0}, {"name": "compare", "seconds": 1.5}]
    context.catalog.add_drill(row, [])
    return run


def test_a_collector_gets_the_run_and_its_phases(site: Site, clock: FakeClock, collector: tuple[str, Heard]) -> None:
    endpoint, heard = collector
    said = Said()
    with opened(site, clock, endpoint, said) as context:
        run = a_drill(context)
        export_run(context, run)
    assert said.events == []
    ((path, authorization, body),) = heard.requests
    assert (path, authorization) == ("/v1/traces", "Bearer abc-token")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "backupctl"
    found = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    root = found["drill site/full"]
    assert {span.trace_id for span in found.values()} == {uuid.UUID(run.id).bytes}
    assert root.end_time_unix_nano - root.start_time_unix_nano == 60 * 10**9
    assert root.status.code == 2  # an error
    words = {one.key: one.value for one in root.attributes}
    assert words["backupctl.verdict"].string_value == "fail"
    assert words["backupctl.level"].int_value == 2
    restore, compare = found["restore"], found["compare"]
    assert restore.parent_span_id == compare.parent_span_id == root.span_id
    assert compare.start_time_unix_nano == restore.end_time_unix_nano
    assert b"abc-token" not in body
    assert str(site.root).encode() not in body


def test_a_collector_that_refuses_or_is_away_costs_a_warning(
    site: Site, clock: FakeClock, collector: tuple[str, Heard]
) -> None:
    endpoint, heard = collector
    heard.status = 400
    said = Said()
    with opened(site, clock, endpoint, said) as context:
        export_run(context, a_drill(context))
    assert said.events == [("warning", f"no trace was sent: {endpoint} did not take it")]


def test_without_configuration_nothing_is_imported_or_sent(site: Site, clock: FakeClock) -> None:
    said = Said()
    with Context.open(load(site.root / "backupctl.yaml"), clock=clock, reporter=said) as context:  # type: ignore[arg-type]  # what a run tells, and no more of it
        export_run(context, a_drill(context))
    assert said.events == []
