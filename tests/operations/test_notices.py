"""From a run's end to somebody's answer: whose channels, under what name, and until when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.errors import NoSuchError
from backupctl.operations.context import Context
from backupctl.operations.notices import acknowledge, open_notices
from backupctl.operations.setup import create_repository
from backupctl.scheduling.dispatch import enqueue_now
from backupctl.scheduling.telling import Teller
from backupctl.scheduling.worker import execute_run
from tests.notify.servers import Requests, web_server
from tests.operations.conftest import NOW

CONFIG = """\
version: 1
repositories: {main: {storage: {local: {path: repository}}, password: {file: key}}}
notify:
  ops: {webhook: {url: "http://127.0.0.1:PORT/"}, repeat: 4h, rules: [{states: [problem], classes: [high]}]}
jobs:
  payroll: {class: high, restricted: true, sources: {salaries: {files: {paths: [gone]}}}, repository: main,
            objectives: {rpo: 24h, rto: 2h}, notify: [ops]}
  minor: {class: low, sources: {www: {files: {paths: [gone]}}}, repository: main, objectives: {rpo: 24h, rto: 2h}, notify: [ops]}
"""


@pytest.fixture
def web() -> Iterator[Requests]:
    with web_server(Requests()) as web:
        yield web


@pytest.fixture
def context(tmp_path: Path, web: Requests) -> Iterator[Context]:
    (tmp_path / "backupctl.yaml").write_text(CONFIG.replace("PORT", str(web.port)))
    (tmp_path / "key").write_text("geheim\n")
    (tmp_path / "key").chmod(0o600)
    with Context.open(load(tmp_path / "backupctl.yaml"), clock=FakeClock(NOW)) as context:
        create_repository(context, "main")
        yield context


def run(context: Context, job: str) -> int:
    return execute_run(context, enqueue_now(context.catalog, context.clock, "backup", job).id)


def test_an_incomplete_run_is_told_without_its_name_and_repeated_until_acknowledged(
    context: Context, web: Requests
) -> None:
    assert run(context, "minor") == 3 and web.seen == []  # no rule wants it
    assert run(context, "payroll") == 3
    (told,) = [json.loads(data) for _, _, _, data in web.seen]
    assert (told["outcome"], told["kind"]) == ("incomplete", "backup") and told["name"].startswith("restricted-")
    clock = context.clock
    assert isinstance(clock, FakeClock)
    teller = Teller(context)
    teller([])
    assert len(web.seen) == 1
    clock.advance(4 * 3600)
    teller([])
    assert len(web.seen) == 2
    everything = b"".join(data + path.encode() for _, path, _, data in web.seen)
    for hidden in (b"payroll", b"salaries", b"gone", b"/tmp"):
        assert hidden not in everything
    assert [row.repeats for row in open_notices(context, every=False, limit=9)] == [1]
    (runs,) = context.catalog.runs(name="payroll")
    (done,) = acknowledge(context, [runs.id[:8]], reason="ticket 12")
    clock.advance(86400)
    teller([])
    assert len(web.seen) == 2 and open_notices(context, every=False, limit=9) == []
    (row,) = open_notices(context, every=True, limit=9)
    assert row.id == done.id and row.acknowledged_by.endswith(": ticket 12")
    assert context.catalog.events()[-1].action == "notice.acknowledged"
    with pytest.raises(NoSuchError):
        acknowledge(context, [str(done.id)], reason="twice")


def test_what_did_not_arrive_waits_and_is_tried_when_somebody_sweeps(context: Context, web: Requests) -> None:
    web.status = 503
    assert run(context, "payroll") == 3
    (waits,) = open_notices(context, every=False, limit=9)
    assert (waits.state, waits.error) == ("queued", "the webhook answered 503")
    web.status = 200
    assert isinstance(context.clock, FakeClock)
    context.clock.advance(60)
    Teller(context)([])
    (arrived,) = open_notices(context, every=False, limit=9)  # told, and still an alarm
    assert arrived.state == "delivered" and arrived.delivered is not None
