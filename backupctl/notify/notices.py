"""Tell people how a run ended, without telling anything else: its name, its outcome, its times and an id to look up.

No file name, host, path, data or error text can get into a notice: it is made from the fields of `NoticeEvent` alone,
which takes names and closed sets of words only. A heartbeat is sent after true success only, so that a monitor which
hears nothing raises the alarm. A notice that cannot be delivered never fails the run and is never silent: it is in the
catalog, where `outbox` finds it and tries again, and in what `notify` returns. A restricted job has another name in all of it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import RUN_STATES, VERDICTS, Notice
from backupctl.clock import Clock, iso, parse_iso
from backupctl.errors import UserError
from backupctl.hosts.secret import SecretRef

if TYPE_CHECKING:
    from backupctl.config.channels import NotifyOptions

log = logging.getLogger(__name__)

Secrets = Callable[[SecretRef], bytes]
LEASE = timedelta(minutes=3)  # longer than any way's time limits: nobody else tries it meanwhile
FIRST_WAIT, LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=1)
_DAYS = timedelta(days=3)
GIVE_UP = {"email": _DAYS, "webhook": _DAYS, "apprise": _DAYS, "heartbeat": timedelta(hours=1)}
"""So long it is tried. A heartbeat that came later would stand for a success that is long past."""

KINDS = ("backup", "drill", "check", "prune", "copy", "refresh", "test")
UNSTARTED = ("missed", "late", "never")  # outcomes of a run that there is not
SUSPICIOUS = "suspicious"  # complete, and what was backed up looks attacked
RESTRICTED = "restricted-"
Way = Literal["email", "webhook", "apprise", "heartbeat"]


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
        if self.outcome not in (*RUN_STATES, *UNSTARTED, SUSPICIOUS, "test") or self.verdict not in (*VERDICTS, ""):
            raise ValueError(f"{self.outcome!r} or {self.verdict!r} is no outcome of a run")
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of run")

    @property
    def alarm(self) -> bool:
        """Something went wrong; not what was left out on purpose, or tried."""
        return not self.truly_succeeded and self.outcome not in ("skipped", "cancelled", "test")

    @property
    def truly_succeeded(self) -> bool:
        """Complete, and for a drill or check with the verdict `pass`; anything less is no success."""
        verdicts = ("pass",) if self.kind in ("drill", "check") else ("", "pass")
        return self.success and self.outcome == "complete" and self.verdict in verdicts


@dataclass(frozen=True, slots=True)
class About:
    """What rules ask for beside the event: the job, "" for a check of a repository, and its class."""

    job: str = ""
    rating: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    text: str
    document: Mapping[str, object]
    at: datetime
    run: str


def shown_name(name: str, *, restricted: bool) -> str:
    """The name of a job or drill as notices say it: of a restricted job, one that says nothing and is always the same."""
    return RESTRICTED + hashlib.sha256(name.encode()).hexdigest()[:8] if restricted else name


def notify(
    channels: Mapping[str, NotifyOptions],
    event: NoticeEvent,
    *,
    catalog: Catalog,
    secrets: Secrets,
    clock: Clock,
    about: About | None = None,
) -> list[Notice]:
    """Send the event over every way of every channel whose rules want it, and return what was sent or held back; `error`
    says why one did not arrive. Each is in the catalog before it is tried, so that a kill in between loses none."""
    if event.truly_succeeded:
        _recovered(catalog, event)
    notices = []
    for name, options in channels.items():
        if not wanted(options, event, about or About()):
            continue
        for way in _ways(options, event):
            now = clock.now()
            notice = Notice(
                channel=name,
                kind=way,
                run=event.run,
                subject=subject(event),
                created=now,
                delivered=None,
                error="",
                event=fields_of(event),
                alarm=event.alarm and way != "heartbeat",
                state="queued",
                attempts=0,
                repeats=0,
                next_try=now + LEASE,
                last_sent=None,
                acknowledged=None,
                acknowledged_by="",
            )
            notices.append(_first_try(notice, options, event, catalog, secrets, clock))
    return notices


def _recovered(catalog: Catalog, event: NoticeEvent) -> None:
    """What was wrong with the same thing need not be repeated; a suspicious snapshot waits for a person all the same."""
    try:
        over = [
            row.id
            for row in catalog.alarms()
            if (row.event.get("kind"), row.event.get("name")) == (event.kind, event.name)
            and row.event.get("outcome") != SUSPICIOUS
        ]
        if over:
            catalog.acknowledge_notices(over, f"it succeeded in run {event.run}")
    except UserError as error:
        log.warning("what was wrong with %s %s may be repeated: %s", event.kind, event.name, error.message)


def _first_try(
    notice: Notice, options: NotifyOptions, event: NoticeEvent, catalog: Catalog, secrets: Secrets, clock: Clock
) -> Notice:
    try:
        if event.kind != "test" and not has_room(options, notice.channel, notice.kind, catalog, clock.now()):
            notice.state, notice.next_try = "held", None
        catalog.add_notice(notice)
    except UserError as error:
        said = deliver(options, notice.kind, message(event), secrets)
        notice.error = "; ".join(filter(None, (said, f"not noted in the catalog: {error.message}")))
        notice.delivered = None if said else clock.now()
        return notice
    if notice.state != "held":
        attempt(notice, options, message(event), catalog, secrets, clock)
    return notice


def attempt(
    notice: Notice, options: NotifyOptions, told: Message, catalog: Catalog, secrets: Secrets, clock: Clock
) -> None:
    """Try one that is ours to try, and note what came of it."""
    notice.error = deliver(options, notice.kind, told, secrets)
    notice.attempts += 1
    now = clock.now()
    if not notice.error:
        notice.delivered, notice.last_sent, notice.state, notice.next_try = (
            notice.delivered or now,
            now,
            "delivered",
            None,
        )
    elif notice.delivered is None and (
        notice.event.get("kind") == "test" or now - notice.created >= GIVE_UP[notice.kind]
    ):
        give_up(notice)
    else:
        notice.next_try = now + wait(notice.attempts)
    names = ("error", "attempts", "delivered", "last_sent", "state", "next_try", "repeats")
    try:
        catalog.settle_notice(notice.id, **{name: getattr(notice, name) for name in names})
    except UserError as error:
        notice.error = "; ".join(filter(None, (notice.error, f"not noted in the catalog: {error.message}")))


def wait(attempts: int) -> timedelta:
    """Until the next try, after so many that failed."""
    return min(FIRST_WAIT * (1 << min(attempts - 1, 10)), LONGEST_WAIT)


def give_up(notice: Notice) -> None:
    """Its end, with what it failed of and how often it was tried."""
    notice.state, notice.next_try = "failed", None
    if notice.attempts > 1:
        notice.error = f"tried {notice.attempts} times, given up: {notice.error}"


def wanted(options: NotifyOptions, event: NoticeEvent, about: About) -> bool:
    """Whether one of the channel's rules asks for it, or it has none. A test is always wanted."""
    if event.kind == "test" or not options.rules:
        return True
    words = {event.outcome, event.verdict, "success" if event.truly_succeeded else "problem"}
    return any(
        (not rule.jobs or any(fnmatchcase(about.job, pattern) for pattern in rule.jobs))
        and (not rule.classes or about.rating in rule.classes)
        and (not rule.states or not words.isdisjoint(rule.states))
        for rule in options.rules
    )


def has_room(options: NotifyOptions, channel: str, way: str, catalog: Catalog, now: datetime) -> bool:
    """Whether the channel's limit lets another one through. A heartbeat always passes: held back, it would be an alarm."""
    limit = options.limit
    return limit is None or way == "heartbeat" or catalog.sent_since(channel, way, now - limit.per) < limit.most


def fields_of(event: NoticeEvent) -> dict[str, object]:
    return {
        "kind": event.kind,
        "name": event.name,
        "outcome": event.outcome,
        "verdict": event.verdict,
        "run": event.run,
        "scheduled": iso(event.scheduled),
        "at": iso(event.at),
        "success": event.success,
    }


def event_of(fields: Mapping[str, Any]) -> NoticeEvent:
    """The same event again. Raises KeyError, ValueError or TypeError."""
    return NoticeEvent(**{**fields, "scheduled": parse_iso(fields["scheduled"]), "at": parse_iso(fields["at"])})


def message(event: NoticeEvent, *, times: int = 0) -> Message:
    """`times`: how often it was told before."""
    again = (
        f" (told {times} times, not acknowledged)" if times > 1 else " (told before, not acknowledged)" if times else ""
    )
    return Message(subject(event) + again, body(event), {**document(event), "repeats": times}, event.at, event.run)


def digest(events: Sequence[NoticeEvent], at: datetime) -> Message:
    """Of what a limit held back: one line each."""
    head = f"[backupctl] {len(events)} notices were held back"
    lines = [f"{iso(event.at)}  {subject(event)}  run {event.run}" for event in events]
    told = {"schema": 1, "kind": "digest", "held": [document(event) for event in events]}
    return Message(head, "\n".join([head, "", *lines, ""]), told, at, "digest")


def subject(event: NoticeEvent) -> str:
    return f"[backupctl] {event.kind} {event.name}: {event.verdict or event.outcome}" + (
        ", with warnings" if event.outcome == "complete" and not event.verdict and not event.success else ""
    )


def body(event: NoticeEvent) -> str:
    restricted = event.name.startswith(RESTRICTED)
    lines = [
        f"{event.kind} {event.name}: {event.outcome}",
        f"verdict: {event.verdict}" if event.verdict else "",
        f"scheduled: {iso(event.scheduled)}",
        f"ended: {iso(event.at)}",
        f"run: {event.run}",
        "",
        "Details: backupctl status" + ("" if restricted else f" {event.name.partition('/')[0]}"),
        f"Acknowledge: backupctl notify ack {event.run}" if event.alarm else "",
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
    if options.apprise is not None:
        ways.append("apprise")
    if options.heartbeat is not None and event.truly_succeeded:
        ways.append("heartbeat")
    return ways


def deliver(options: NotifyOptions, way: str, told: Message, secrets: Secrets) -> str:
    """ "" when it arrived, else why not."""
    from backupctl.notify.delivery import fetch, post, send_apprise, send_mail  # mail and HTTP: for who has a channel

    try:
        if way == "email" and options.email is not None:
            send_mail(options.email, told.subject, told.text, told.at, told.run, secrets)
        elif way == "webhook" and options.webhook is not None:
            post(options.webhook, told.document, secrets)
        elif way == "apprise" and options.apprise is not None:
            send_apprise(options.apprise, told.subject, told.text, secrets)
        elif way == "heartbeat" and options.heartbeat is not None:
            fetch(options.heartbeat, secrets)
        else:
            return "the channel no longer has this way"
    except UserError as error:
        return error.message
    return ""
