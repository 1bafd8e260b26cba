"""Notices after their first try: again, again until acknowledged, and together. No test waits: time is a fake clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Notice
from backupctl.clock import FakeClock
from backupctl.config.channels import NotifyOptions
from backupctl.notify import outbox
from backupctl.notify.notices import About, NoticeEvent, body, document, message, notify, shown_name, subject
from tests.notify.servers import Mailbox, Requests, mail_server, web_server
from tests.notify.test_notices import EVENT, START, email, secrets

FAILED = replace(EVENT, outcome="failed", success=False)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@dataclass
class Office:
    """One channel, a webhook of its own, a clock."""

    catalog: Catalog
    clock: FakeClock
    web: Requests
    channel: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> dict[str, NotifyOptions]:
        hook = {"webhook": {"url": f"http://127.0.0.1:{self.web.port}/"}}
        return {"ops": NotifyOptions.model_validate(hook | self.channel)}

    def tell(self, event: NoticeEvent = FAILED, about: About | None = None) -> list[Notice]:
        return notify(
            self.channels, event, catalog=self.catalog, secrets=secrets, clock=self.clock, about=about or About()
        )

    def work(self, seconds: float = 0) -> list[Notice]:
        self.clock.advance(seconds)
        return outbox.work(self.channels, catalog=self.catalog, secrets=secrets, clock=self.clock)

    @property
    def heard(self) -> list[dict[str, Any]]:
        told = [json.loads(data) for _, _, _, data in self.web.seen]
        self.web.seen.clear()
        return told

    @property
    def states(self) -> list[str]:
        return [row.state for row in reversed(self.catalog.notices())]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    clock = FakeClock(START)
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db", clock=clock)
    with web_server(Requests()) as web:
        yield Office(catalog, clock, web)
    catalog.close()


def test_what_did_not_arrive_is_tried_again_at_growing_intervals_and_given_up_after_days(office: Office) -> None:
    office.web.status = 500
    (first,) = office.tell()
    assert (first.state, first.attempts, first.next_try) == ("queued", 1, START + MINUTE)
    assert office.work(30) == []
    (second,) = office.work(30)
    assert (second.attempts, second.next_try) == (2, START + 3 * MINUTE)
    office.web.status = 200
    (third,) = office.work(120)
    assert (third.error, third.state, third.delivered) == ("", "delivered", START + 3 * MINUTE)
    assert office.work(9 * 86400) == [] and len(office.heard) == 3

    office.web.status = 500
    office.tell()
    tries = 0
    while office.states[-1] == "queued":
        tries += len(office.work(3600))
    assert 70 <= tries <= 73 and office.states[-1] == "failed"


def test_a_heartbeat_is_not_sent_long_after_the_success_it_stands_for(office: Office) -> None:
    office.channel = {"webhook": None, "heartbeat": {"url": f"http://127.0.0.1:{office.web.port}/"}}
    office.web.status = 503
    office.tell(EVENT)
    while office.states == ["queued"]:
        office.work(1800)
    assert office.states == ["failed"] and office.clock.now() - START <= 2 * HOUR


def test_a_notice_is_in_the_catalog_before_it_is_sent_and_nobody_else_sends_it_meanwhile(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backupctl.notify.delivery.post", killed)
    with pytest.raises(KeyboardInterrupt):
        office.tell()
    monkeypatch.undo()
    assert office.states == ["queued"] and office.work(60) == []
    (row,) = office.catalog.notices()
    (again,) = office.work(180)
    assert again.state == "delivered" and len(office.heard) == 1
    assert not office.catalog.claim_notice(row, office.clock.now())  # as it was before: somebody else has had it


def test_an_alarm_is_repeated_until_it_is_acknowledged(office: Office) -> None:
    office.channel = {"repeat": "4h"}
    office.tell()
    assert office.work(3600) == []
    assert [len(office.work(4 * 3600)) for _ in range(2)] == [1, 1]
    assert [one["repeats"] for one in office.heard] == [0, 1, 2]
    ids = [row.id for row in office.catalog.alarms()]
    assert office.catalog.acknowledge_notices(ids, "ops: looking") == 1
    assert office.work(86400) == [] and office.heard == []
    assert office.catalog.acknowledge_notices(ids, "twice") == 0


def test_an_alarm_ends_with_the_next_success_but_a_suspicious_snapshot_waits_for_a_person(office: Office) -> None:
    office.channel = {"repeat": "4h"}
    office.tell()
    office.tell(replace(FAILED, name="other"))
    suspicious = replace(FAILED, outcome="suspicious", run="r2")
    assert "suspicious" in subject(suspicious)
    office.tell(suspicious)
    office.tell(EVENT)
    assert [(row.event["name"], row.event["outcome"]) for row in office.catalog.alarms()] == [
        ("other", "failed"),
        ("website", "suspicious"),
    ]
    assert not office.work(86400)[0].error


def test_success_what_was_left_out_and_tests_are_no_alarms(office: Office) -> None:
    office.channel = {"repeat": "1h"}
    test = replace(EVENT, kind="test", outcome="test", success=False)
    for event in (EVENT, replace(FAILED, outcome="skipped"), test):
        office.tell(event)
    assert office.catalog.alarms() == [] and office.work(86400) == []


def test_more_than_the_limit_is_held_back_and_comes_in_one_digest(office: Office) -> None:
    office.channel = {"limit": {"most": 2, "per": "1h"}}
    for number in range(5):
        office.tell(replace(FAILED, name=f"job{number}"))
    assert office.states == ["delivered"] * 2 + ["held"] * 3 and len(office.heard) == 2
    assert office.work(1800) == []
    assert len(office.work(1801)) == 3
    (digest,) = office.heard
    assert digest["kind"] == "digest" and [one["name"] for one in digest["held"]] == ["job2", "job3", "job4"]
    assert office.states == ["delivered"] * 5
    office.tell()  # the digest counted as one
    office.tell()
    assert office.states[-2:] == ["delivered", "held"]


def test_a_digest_that_does_not_arrive_is_tried_again(office: Office) -> None:
    office.channel = {"limit": {"most": 1, "per": "1h"}}
    office.tell()
    office.tell()
    office.web.status = 500
    assert office.work(3601)[0].error and office.states[-1] == "held"
    office.web.status = 200
    assert office.work(30) == []
    assert not office.work(30)[0].error and office.states[-1] == "delivered"


def test_a_digest_that_never_arrives_is_given_up_after_days(office: Office) -> None:
    office.channel = {"limit": {"most": 1, "per": "1h"}}
    office.tell()
    for number in range(3):
        office.tell(replace(FAILED, name=f"job{number}"))
    office.clock.advance(9 * 86400)  # nobody looked: that it waited for room is no failure of the channel
    office.web.status = 500
    began, tries = office.clock.now(), 0
    while "held" in office.states:
        tries += bool(office.work(1800))
    assert office.states[1:] == ["failed"] * 3 and 70 <= tries <= 80
    assert timedelta(days=3) <= office.clock.now() - began <= timedelta(days=3, hours=5)
    assert all(row.error.startswith(f"tried {tries} times, given up: ") for row in office.catalog.notices()[:3])
    office.web.status = 200
    assert office.work(86400) == []


def test_a_held_notice_that_cannot_be_read_does_not_wait_for_ever(office: Office) -> None:
    office.channel = {"limit": {"most": 1, "per": "1h"}}
    office.tell()
    (row,) = office.tell()
    office.catalog.settle_notice(row.id, event={"of": "an earlier version"})
    assert office.work(3601) == [] and office.states == ["delivered", "dropped"]


def test_a_mail_digest_names_each_run(tmp_path: Path) -> None:
    clock = FakeClock(START)
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db", clock=clock)
    with mail_server(Mailbox()) as box:
        limited = {**email(box.port), "limit": {"most": 1, "per": "1h"}}
        channels = {"ops": NotifyOptions.model_validate(limited)}
        for number in range(3):
            event = replace(FAILED, name=f"job{number}", run=f"run-{number}")
            notify(channels, event, catalog=catalog, secrets=secrets, clock=clock)
        clock.advance(3601)
        outbox.work(channels, catalog=catalog, secrets=secrets, clock=clock)
    assert len(box.mails) == 2 and "2 notices were held back" in box.mails[1]
    assert "job1" in box.mails[1] and "run-2" in box.mails[1]
    catalog.close()


@pytest.mark.parametrize(
    ("rule", "event", "about", "told"),
    [
        ({"jobs": ["web*"]}, FAILED, About("website", "high"), True),
        ({"jobs": ["web*"]}, FAILED, About("payroll", "high"), False),
        ({"jobs": ["web*"]}, FAILED, About(), False),
        ({"classes": ["high"]}, FAILED, About("website", "high"), True),
        ({"classes": ["high"]}, FAILED, About("website", "low"), False),
        ({"states": ["problem"]}, FAILED, About(), True),
        ({"states": ["problem"]}, EVENT, About(), False),
        ({"states": ["success"]}, EVENT, About(), True),
        ({"states": ["fail"]}, replace(FAILED, kind="drill", verdict="fail"), About(), True),
        ({"states": ["suspicious"]}, replace(FAILED, outcome="suspicious"), About(), True),
        ({"classes": ["high"], "states": ["failed"]}, FAILED, About("website", "low"), False),
    ],
)
def test_rules_say_what_a_channel_is_told(
    office: Office, rule: dict[str, Any], event: NoticeEvent, about: About, told: bool
) -> None:
    office.channel = {"rules": [rule]}
    assert bool(office.tell(event, about)) == told
    office.channel = {"rules": [{"jobs": ["nothing"]}, rule]}
    assert bool(office.tell(event, about)) == told
    assert office.tell(replace(EVENT, kind="test", outcome="test", success=False))  # a test is always told


def test_what_belongs_to_a_channel_that_is_gone_is_dropped(office: Office) -> None:
    office.web.status = 500
    office.tell()
    office.clock.advance(3600)
    assert outbox.work({}, catalog=office.catalog, secrets=secrets, clock=office.clock) == []
    assert office.states == ["dropped"]


def test_nothing_of_a_restricted_job_is_in_any_notice(office: Office) -> None:
    """Every notice that can be rendered, of every way: neither the job's name nor a drill's."""
    told = ""
    for name in ("payroll", "payroll/monthly"):
        hidden = shown_name(name, restricted=True)
        assert hidden != shown_name("other", restricted=True) and shown_name(name, restricted=False) == name
        for outcome in ("complete", "failed", "suspicious", "missed"):
            event = replace(FAILED, name=hidden, outcome=outcome)
            office.tell(event)
            told += subject(event) + body(event) + json.dumps(document(event)) + message(event, times=3).text
    told += json.dumps(office.heard) + "".join(row.subject + json.dumps(row.event) for row in office.catalog.notices())
    assert "payroll" not in told and "monthly" not in told and "restricted-" in told


def test_warnings_are_in_the_subject() -> None:
    assert subject(replace(EVENT, success=False)).endswith("website: complete, with warnings")
    assert subject(EVENT).endswith("website: complete")


def test_apprise_delivers_or_says_so_without_its_address(office: Office) -> None:
    pytest.importorskip("apprise")
    address = f"json://127.0.0.1:{office.web.port}/hunter2"
    office.channel = {"webhook": None, "apprise": {"url": {"env": address}}}
    (sent,) = office.tell()
    assert sent.error == "" and sent.kind == "apprise"
    ((_, path, _, data),) = office.web.seen
    assert path == "/hunter2" and "website: failed" in data.decode()
    office.web.status = 500
    (sent,) = office.tell()
    assert sent.error == "apprise could not deliver it" and sent.state == "queued"
    office.channel = {"webhook": None, "apprise": {"url": {"env": "nonsense"}}}
    (sent,) = office.tell()
    assert "none that apprise knows" in sent.error


def test_without_apprise_the_extra_is_named(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    office.channel = {"webhook": None, "apprise": {"url": {"env": "json://x"}}}
    (sent,) = office.tell()
    assert sent.error == "apprise is not installed"
