from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
import json
import string
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.policy import default
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import RUN_STATES, VERDICTS, Notice
from backupctl.clock import FakeClock
from backupctl.config.channels import NotifyOptions
from backupctl.errors import LockedError
from backupctl.hosts.secret import SecretRef
from backupctl.notify import notices
from backupctl.notify.notices import NoticeEvent, body, document, notify, subject
from tests.notify.servers import Mailbox, Requests, certificate, mail_server, web_server
from tests.servers.databases import free_port

START = datetime(2026, 11, 21, 18, 15, tzinfo=UTC)
EVENT = NoticeEvent(
    kind="backup",
    name="website",
    outcome="complete",
    verdict="",
    run="498debfd-d513-4975-aa7b-f80c2223d7e1",
    scheduled=START,
    at=START + timedelta(minutes=5),
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db", clock=FakeClock(START))
    yield catalog
    catalog.close()


def secrets(reference: SecretRef) -> bytes:
    return {"mail": b"hunter2", "hook": b"signing key", "bad": b"ftp://hunter2"}.get(str(reference.env)) or str(
        reference.env
    ).encode()


def send(catalog: Catalog, channel: dict[str, object], event: NoticeEvent = EVENT) -> list[Notice]:
    options = NotifyOptions.model_validate(channel)
    sent = notify({"ops": options}, event, catalog=catalog, secrets=secrets, clock=catalog.clock)
    noted = [(row.kind, row.error, row.delivered) for row in reversed(catalog.notices())]
    assert noted[len(noted) - len(sent) :] == [(row.kind, row.error, row.delivered) for row in sent]
    for notice in sent:
        assert (notice.delivered == START) == (notice.error == "")
        assert "hunter2" not in notice.error and "/etc" not in notice.error
    return sent


def email(port: int, **more: object) -> dict[str, object]:
    base = {"host": "127.0.0.1", "port": port, "tls": "none", "sender": "backup@example.gov", "to": ["ops@example.gov"]}
    return {"email": {**base, **more}}


def test_a_mail_arrives(catalog: Catalog) -> None:
    event = replace(EVENT, name="網站/monthly", kind="drill", verdict="fail")
    with mail_server(Mailbox()) as box:
        (sent,) = send(catalog, email(box.port, to=["ops@example.gov", "boss@example.gov"]), event)
    assert sent.error == "" and sent.channel == "ops" and sent.run == EVENT.run
    mail = message_from_string(box.mails[0], policy=default)
    assert mail["Subject"] == "[backupctl] drill 網站/monthly: fail"
    assert mail["To"] == "ops@example.gov, boss@example.gov" and mail["From"] == "backup@example.gov"
    assert mail["Auto-Submitted"] == "auto-generated" and mail["Message-ID"] and mail["Date"]
    text = mail.get_content()
    assert "verdict: fail" in text and EVENT.run in text and "2026-11-21T18:15:00Z" in text
    assert sum(line.startswith("rcpt TO") for line in box.commands) == 2


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mail_over_verified_tls_with_login(
    catalog: Catalog, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = certificate(tmp_path)
    box = Mailbox(starttls=context if tls == "starttls" else None)
    with mail_server(box, context if tls == "tls" else None):
        channel = email(box.port, tls=tls, user="ops", password={"env": "mail"})
        (sent,) = send(catalog, channel)
        assert "certificate cannot be verified" in sent.error and box.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        (sent,) = send(catalog, channel)
        assert sent.error == "" and len(box.mails) == 1
        (sent,) = send(catalog, email(box.port, tls=tls, user="ops", password={"env": "wrong"}))
        assert "refused the login" in sent.error and len(box.mails) == 1


def test_a_mail_server_without_starttls_gets_nothing(catalog: Catalog) -> None:
    with mail_server(Mailbox()) as box:
        (sent,) = send(catalog, email(box.port, tls="starttls", user="ops", password={"env": "mail"}))
    assert "did not take the mail" in sent.error and box.mails == []
    assert not any(line.startswith("AUTH") for line in box.commands)


@pytest.mark.parametrize("refuse", ["MAIL", "RCPT", "DATA"])
def test_a_mail_server_that_refuses(catalog: Catalog, refuse: str) -> None:
    with mail_server(Mailbox(refuse=refuse)) as box:
        (sent,) = send(catalog, email(box.port))
    assert sent.error != "" and box.mails == []


def test_one_receiver_refused_is_no_delivery(catalog: Catalog) -> None:
    with mail_server(Mailbox(refuse="RCPT TO:<BOSS")) as box:
        (sent,) = send(catalog, email(box.port, to=["ops@example.gov", "boss@example.gov"]))
    assert "refused 1 of 2 receivers" in sent.error and len(box.mails) == 1


def test_servers_that_are_silent_or_away(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupctl.notify.delivery.TIMEOUT_SECONDS", 0.2)
    with mail_server(Mailbox(silent=True)) as box:
        address = {"url": f"http://127.0.0.1:{box.port}/"}
        found = send(catalog, {**email(box.port), "webhook": address, "heartbeat": address})
        assert [sent.kind for sent in found] == ["email", "webhook", "heartbeat"]
        assert all("no answer within 0.2 seconds" in sent.error for sent in found)
    port = free_port()
    address = {"url": f"http://127.0.0.1:{port}/"}
    found = send(catalog, {**email(port), "webhook": address, "heartbeat": address})
    assert all("cannot be reached: Connection refused" in sent.error for sent in found)
    assert len(catalog.notices(failed_only=True)) == 6


def test_a_webhook_is_posted_and_signed(catalog: Catalog) -> None:
    with web_server(Requests()) as web:
        url = f"http://127.0.0.1:{web.port}/hook?token=1"
        (sent,) = send(catalog, {"webhook": {"url": {"env": url}, "secret": {"env": "hook"}}})
    ((method, path, headers, data),) = web.seen
    assert sent.error == "" and (method, path, headers["Content-Type"]) == ("POST", "/hook?token=1", "application/json")
    assert headers["X-Backupctl-Signature"] == "sha256=" + hmac.new(b"signing key", data, hashlib.sha256).hexdigest()
    assert json.loads(data) == {**document(EVENT), "repeats": 0} and json.loads(data)["success"] is True


@pytest.mark.parametrize("status", [302, 404, 500])
def test_any_other_answer_is_a_failure_and_nothing_is_followed(catalog: Catalog, status: int) -> None:
    with web_server(Requests(status=status)) as web:
        address = {"url": f"http://127.0.0.1:{web.port}/"}
        found = send(catalog, {"webhook": address, "heartbeat": address})
    assert [sent.error for sent in found] == [
        f"the webhook answered {status}",
        f"the heartbeat's address answered {status}",
    ]
    assert [path for _, path, _, _ in web.seen] == ["/", "/"]


def test_https_is_verified(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate(tmp_path)
    with web_server(Requests(), context) as web:
        channel: dict[str, object] = {"heartbeat": {"url": f"https://127.0.0.1:{web.port}/ping"}}
        (sent,) = send(catalog, channel)
        assert "certificate cannot be verified" in sent.error and web.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        (sent,) = send(catalog, channel)
        assert sent.error == "" and [path for _, path, _, _ in web.seen] == ["/ping"]


def test_a_secret_address_that_is_none(catalog: Catalog) -> None:
    (sent,) = send(catalog, {"webhook": {"url": {"env": "bad"}}})
    assert "must be https://HOST/PATH" in sent.error


@pytest.mark.parametrize("kind", ["backup", "check", "drill", "prune"])
def test_the_heartbeat_is_for_true_success_only(catalog: Catalog, kind: str) -> None:
    """Every outcome times every verdict times the caller's word."""
    heard = []
    with web_server(Requests()) as web:
        channel: dict[str, object] = {"heartbeat": {"url": f"http://127.0.0.1:{web.port}/"}}
        for outcome in RUN_STATES:
            for verdict in ("", *VERDICTS):
                for success in (True, False):
                    event = replace(EVENT, kind=kind, outcome=outcome, verdict=verdict, success=success)
                    if send(catalog, channel, event):
                        heard.append((outcome, verdict, success))
    passes = [("complete", "pass", True)] if kind in ("check", "drill") else []
    expected = passes or [("complete", "", True), ("complete", "pass", True)]
    assert heard == expected and len(web.seen) == len(expected)


def test_a_catalog_that_cannot_note_it_does_not_fail_the_run(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(row: Notice) -> None:
        raise LockedError("the catalog stayed locked")

    monkeypatch.setattr(catalog, "add_notice", refuse)
    with web_server(Requests()) as web:
        options = NotifyOptions.model_validate({"webhook": {"url": f"http://127.0.0.1:{web.port}/"}})
        (sent,) = notify({"ops": options}, EVENT, catalog=catalog, secrets=secrets, clock=catalog.clock)
    assert sent.error == "not noted in the catalog: the catalog stayed locked" and len(web.seen) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": "/etc/passwd"},
        {"name": "a/b/c"},
        {"name": "../a"},
        {"name": "two\nlines"},
        {"name": "web1: no such file"},
        {"outcome": "permission denied: /srv/www"},
        {"verdict": "row 7 differs"},
        {"kind": "anything"},
        {"run": "/srv/www"},
    ],
)
def test_no_path_and_no_free_text_can_enter_an_event(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is no"):
        replace(EVENT, **change)  # type: ignore[arg-type]  # the point of the test


def test_what_is_told_is_made_of_the_event_alone() -> None:
    """The texts interpolate fields of the event and nothing else, and the event has no field for anything else."""
    allowed = {"kind", "name", "outcome", "verdict", "run", "scheduled", "at", "success", "truly_succeeded", "alarm"}
    assert {field.name for field in fields(NoticeEvent)} == allowed - {"truly_succeeded", "alarm"}
    for function in (subject, body, document):
        tree = ast.parse(inspect.getsource(function))
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "event"
        }
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert used <= allowed
        words = {"event", "NoticeEvent", "iso", "lines", "line", "number", "enumerate", "str", "dict", "object"}
        assert names <= words | {"restricted", "RESTRICTED"}
    told = subject(EVENT) + body(EVENT)
    assert not {word for word in told.split() if word.startswith("/") or "\\" in word}
    assert set(told) <= set(string.printable)
    assert "open(" not in inspect.getsource(notices)
