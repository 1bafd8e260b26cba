"""Tell people how a run ended, without telling anything else: its name, its outcome, its times and an id to look up.

No file name, host, path, data or error text can get into a notice: it is made from the fields of `NoticeEvent` alone,
which takes names and closed sets of words only. A heartbeat is sent after true success only, so that a monitor which
hears nothing raises the alarm. A notice that cannot be delivered never fails the run and is never silent: it is in the
catalog and in what `notify` returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import RUN_STATES, VERDICTS, Notice
from backupctl.clock import Clock, iso
from backupctl.config.channels import NotifyOptions
from backupctl.errors import UserError
from backupctl.hosts.secret import SecretRef
from backupctl.notify.delivery import fetch, post, send_mail

Secrets = Callable[[SecretRef], bytes]
KINDS = ("backup", "drill", "check", "prune", "copy", "test")
UNSTARTED = ("missed", "late", "never")  # outcomes of a run that there is not
Way = Literal["email", "webhook", "heartbeat"]


@dataclass(frozen=True, slots=True)
class NoticeEvent:
    """A run that ended, or one that should have begun. `success` is the caller's word; see `truly_succeeded` for ours."""

    kind: str  # one of KINDS
    name: str  # job, JOB/DRILL or repository
    outcome: str  # the state the run ended in, or one of UNSTARTED
    verdict: str  # of a drill or check, else ""
    run: str
    scheduled: datetime
    at: datetime
    success: bool = True

    def __post_init__(self) -> None:
        """Names and closed sets, so that no path and no free text can travel in them."""
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", self.name):
            raise ValueError(f"{self.name!r} is no name of a job, drill or repository")
        if not re.fullmatch(r"[\w-]{0,64}", self.run):
            raise ValueError(f"{self.run!r} is no id of a run")
        if self.outcome not in (*RUN_STATES, *UNSTARTED, "test") or self.verdict not in (*VERDICTS, ""):
            raise ValueError(f"{self.outcome!r} or {self.verdict!r} is no outcome of a run")
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of run")

    @property
    def truly_succeeded(self) -> bool:
        """Complete, and for a drill or check with the verdict `pass`; anything less is no success."""
        verdicts = ("pass",) if self.kind in ("drill", "check") else ("", "pass")
        return self.success and self.outcome == "complete" and self.verdict in verdicts


def notify(
    channels: Mapping[str, NotifyOptions], event: NoticeEvent, *, catalog: Catalog, secrets: Secrets, clock: Clock
) -> list[Notice]:
    """Send the event over every way of every channel, and return what was sent; `error` says why one did not arrive."""
    notices = []
    for name, options in channels.items():
        for way in _ways(options, event):
            notice = Notice(
                channel=name, kind=way, run=event.run, subject=subject(event), created=clock.now(), delivered=None
            )
            notice.error = _deliver(way, options, event, secrets)
            if not notice.error:
                notice.delivered = clock.now()
            try:
                catalog.add_notice(notice)
            except UserError as error:
                notice.error = "; ".join(filter(None, (notice.error, f"not noted in the catalog: {error.message}")))
            notices.append(notice)
    return notices


def subject(event: NoticeEvent) -> str:
    return f"[backupctl] {event.kind} {event.name}: {event.verdict or event.outcome}"


def body(event: NoticeEvent) -> str:
    lines = [
        f"{event.kind} {event.name}: {event.outcome}",
        f"verdict: {event.verdict}" if event.verdict else "",
        f"scheduled: {iso(event.scheduled)}",
        f"ended: {iso(event.at)}",
        f"run: {event.run}",
        "",
        f"Details: backupctl status {event.name.partition('/')[0]}",
    ]
    return "\n".join(line for number, line in enumerate(lines) if line or number == 5) + "\n"


def document(event: NoticeEvent) -> dict[str, object]:
    """What a webhook receives."""
    return {
        "schema": 1,
        "kind": event.kind,
        "name": event.name,
        "outcome": event.outcome,
        "verdict": event.verdict,
        "success": event.truly_succeeded,
        "run": event.run,
        "scheduled": iso(event.scheduled),
        "at": iso(event.at),
    }


def _ways(options: NotifyOptions, event: NoticeEvent) -> list[Way]:
    ways: list[Way] = []
    if options.email is not None:
        ways.append("email")
    if options.webhook is not None:
        ways.append("webhook")
    if options.heartbeat is not None and event.truly_succeeded:
        ways.append("heartbeat")
    return ways


def _deliver(way: Way, options: NotifyOptions, event: NoticeEvent, secrets: Secrets) -> str:
    """ "" when it arrived, else why not."""
    try:
        if way == "email" and options.email is not None:
            send_mail(options.email, subject(event), body(event), event.at, event.run, secrets)
        elif way == "webhook" and options.webhook is not None:
            post(options.webhook, document(event), secrets)
        elif way == "heartbeat" and options.heartbeat is not None:
            fetch(options.heartbeat, secrets)
    except UserError as error:
        return error.message
    return ""
