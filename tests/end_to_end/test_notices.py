"""Mail, webhook and heartbeat from real runs: what they tell, when they keep silent, and what they never tell."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.site import Site
from tests.notify.servers import Mailbox, Requests, mail_server, web_server

SECRETS = ("index.html", "shop.db", "orders", "picture", "input", "customer", "/tmp", "no database", "staging")
"""Names of files, tables, directories and hosts, and words of error messages, that no notice may repeat."""


@dataclass
class Heard:
    mailbox: Mailbox
    hook: Requests
    heart: Requests

    def notices(self) -> list[dict[str, object]]:
        """What the webhook got since the last call; everything is searched for what must not be in it."""
        everything = [*self.mailbox.mails, *(body.decode() for _, _, _, body in self.hook.seen)]
        everything += [
            f"{path} {headers}" for seen in (self.hook.seen, self.heart.seen) for _, path, headers, _ in seen
        ]
        for text in everything:
            assert not [one for one in SECRETS if one in text], text
        assert len(self.mailbox.mails) == len(self.hook.seen)
        told = [json.loads(body) for _, _, _, body in self.hook.seen]
        self.mailbox.mails.clear()
        self.hook.seen.clear()
        return told

    def beats(self) -> int:
        count = len(self.heart.seen)
        self.heart.seen.clear()
        return count


@pytest.fixture
def heard(site: Site) -> Iterator[Heard]:
    with mail_server(Mailbox()) as mailbox, web_server(Requests()) as hook, web_server(Requests()) as heart:
        (site.root / "hook.secret").write_text("shared secret\n")
        (site.root / "hook.secret").chmod(0o600)
        site.configure(
            main="notify:\n  ops:\n"
            f"    email: {{host: 127.0.0.1, port: {mailbox.port}, tls: none, sender: b@example.gov, to: [ops@example.gov]}}\n"
            f"    webhook: {{url: 'http://127.0.0.1:{hook.port}/hook', secret: {{file: hook.secret}}}}\n"
            f"    heartbeat: {{url: 'http://127.0.0.1:{heart.port}/ping/4711'}}\n",
            job="notify: [ops]\n",
        )
        yield Heard(mailbox, hook, heart)


def test_each_run_is_told_and_only_true_success_beats(site: Site, heard: Heard) -> None:
    site.run("run")
    (mail,) = heard.mailbox.mails
    assert "Subject: [backupctl] backup site: complete" in mail
    _, path, headers, body = heard.hook.seen[0]
    assert path == "/hook"
    assert headers["X-Backupctl-Signature"] == "sha256=" + hmac.new(b"shared secret", body, hashlib.sha256).hexdigest()
    (told,) = heard.notices()
    assert (told["kind"], told["name"], told["outcome"], told["success"]) == ("backup", "site", "complete", True)
    assert [one[:2] for one in heard.heart.seen] == [("GET", "/ping/4711")]
    heard.beats()

    site.run("drill", "run")
    (told,) = heard.notices()
    assert (told["kind"], told["name"], told["verdict"], told["success"]) == ("drill", "site/full", "pass", True)
    site.run("check")
    (told,) = heard.notices()
    assert (told["kind"], told["name"], told["verdict"]) == ("check", "main", "pass")
    assert heard.beats() == 2


def test_nothing_less_than_success_beats_and_nothing_leaks(site: Site, heard: Heard) -> None:
    site.run("run")
    good = (site.root / "input" / "shop.db").read_bytes()
    heard.notices()
    heard.beats()
    (site.root / "input" / "shop.db").write_bytes(b"this is no database")
    site.run("run", expect=3)
    (told,) = heard.notices()
    assert (told["outcome"], told["success"]) == ("incomplete", False)
    (site.root / "input" / "shop.db").write_bytes(good)

    pack = site.objects("data")[0]
    content = bytearray(pack.read_bytes())
    content[100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    site.run("check", "--read-data", expect=4)
    site.run("drill", "run", expect=4)
    assert [(one["kind"], one["verdict"]) for one in heard.notices()] == [("check", "fail"), ("drill", "fail")]
    site.repository.rename(site.root / "away")
    site.run("run", expect=(1, 10, 14))
    (told,) = heard.notices()
    assert (told["outcome"], told["success"]) == ("failed", False)
    assert heard.beats() == 0


def test_a_notice_that_cannot_be_delivered_is_told_and_does_not_fail_the_run(site: Site, heard: Heard) -> None:
    heard.hook.status = 500
    heard.mailbox.refuse = "RCPT"
    said = site.run("run")
    for way in ("webhook", "email"):
        (line,) = [one for one in said.err.splitlines() if f"({way})" in one]
        assert line.startswith("warning: notice over ops")
        assert "was not delivered" in line
        assert "hunter2" not in line
    catalog = sqlite3.connect(site.root / "catalog.db")
    errors = dict(catalog.execute("select kind, error from notices").fetchall())
    catalog.close()
    assert errors["webhook"] and errors["email"] and not errors["heartbeat"]
    assert heard.beats() == 1


def test_the_channels_can_be_tried(site: Site, heard: Heard) -> None:
    said = site.run("notify", "test", "ops")
    assert "ops (email): delivered" in said.out
    assert "ops (webhook): delivered" in said.out
    assert "Subject: [backupctl] test ops: test" in heard.mailbox.mails[0]
    (told,) = heard.notices()
    assert (told["kind"], told["name"], told["success"]) == ("test", "ops", False)
    assert heard.beats() == 0, "a test is no success"
    heard.hook.status = 404
    said = site.run("notify", "test", "ops", expect=1)
    assert "ops (webhook): " in said.out and "404" in said.out
    assert "known: ops" in site.run("notify", "test", "nobody", expect=10).err
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text() + "  alive: {heartbeat: {url: 'http://127.0.0.1:9/'}}\n")
    assert "alive has a heartbeat alone" in site.run("notify", "test", "alive", expect=2).err


def test_a_channel_that_is_down(site: Site, heard: Heard, tmp_path: Path) -> None:
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace(f"127.0.0.1:{heard.heart.port}", "127.0.0.1:1"))
    said = site.run("run")
    (line,) = [one for one in said.err.splitlines() if one.startswith("warning: ")]
    assert "ops (heartbeat)" in line and "cannot be reached" in line
    assert "4711" not in said.text, "the address may be a secret"
