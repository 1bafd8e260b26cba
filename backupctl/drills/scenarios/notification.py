"""Something went wrong, or nothing runs at all any more: does anybody hear of it?

Test notices go over the job's real channels, and to one that is broken on purpose. That silence is heard is tried with a
watcher of the drill's own: the real monitor must not be told of a success that there was not.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from backupctl.clock import iso
from backupctl.config.channels import NotifyOptions
from backupctl.config.models import Settings
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.protocol import CheckResult

BROKEN, WATCHER = "drill-broken", "drill-watcher"
ENDINGS = (("complete", 1), ("failed", 1), ("incomplete", 1), ("complete", 2))
"""How runs end, one after the other, and how many heartbeats the watcher must have heard by then."""


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    job, around = stage.request.job, stage.surroundings
    if not job.notify:
        raise CouldNotRunError(f"job {job.job} tells nobody", next_step="give it channels: `notify: [CHANNEL]`")
    outcome = SourceOutcome("notification", level=3)
    stage.outcomes.append(outcome)
    stage.stopwatch.strike()
    real = {name: around.settings.notify[name] for name in job.notify}
    with stage.workroom() as workroom:
        with stage.stopwatch.phase("notify"):
            channels = {**real, BROKEN: _broken()}
            sent = around.verbs.tell(_with(around.settings, workroom, channels), job.job, "test")
        for channel, way, error in sent:
            if channel != BROKEN:
                check = CheckResult(
                    f"a test notice over {channel} ({way})", "delivered", error or "delivered", not error, 4
                )
                outcome.checks.append(check)
        said = "; ".join(error for channel, _, error in sent if channel == BROKEN)
        outcome.checks.append(
            CheckResult(
                "a channel that is broken", "an error is said, the others are told", said or "silence", bool(said), 4
            )
        )
        beating = [name for name, options in real.items() if options.heartbeat is not None]
        outcome.checks.append(
            CheckResult(
                "a heartbeat that goes silent", "one channel at least", ", ".join(beating) or "none", bool(beating), 4
            )
        )
        with stage.stopwatch.phase("stop the heart"), _watcher() as (url, heard):
            watcher = NotifyOptions.model_validate({"heartbeat": {"url": url}})
            settings = _with(around.settings, workroom, {WATCHER: watcher})
            for ending, expected in ENDINGS:
                around.verbs.tell(settings, job.job, ending)
                outcome.checks.append(
                    CheckResult(
                        f"heartbeats after a run that ended {ending}",
                        str(expected),
                        str(len(heard)),
                        len(heard) == expected,
                        4,
                    )
                )
        with stage.stopwatch.phase("stop the scheduler"):
            later = stage.deadline.clock.now() + 2 * job.objectives.rpo
            state = around.verbs.state_at(_with(around.settings, workroom, {}), job.job, later)
        name = f"status when nothing ran until {iso(later)}"
        outcome.checks.append(CheckResult(name, "stale", state, state == "stale", 4))


def _with(settings: Settings, workroom: Path, channels: dict[str, NotifyOptions]) -> Settings:
    return settings.model_copy(
        update={"catalog": f"sqlite:///{workroom / 'catalog.db'}", "notify": channels, "cache": None}
    )


def _broken() -> NotifyOptions:
    """A place where nobody listens: a port that the kernel gave, and that was closed again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return NotifyOptions.model_validate({"webhook": {"url": f"http://127.0.0.1:{port}/"}})


@contextmanager
def _watcher() -> Iterator[tuple[str, list[str]]]:
    """A monitor on this machine: its address, and what it heard."""
    heard: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """What is heard is kept, not logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listening) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", heard
        finally:
            server.shutdown()
            thread.join()


SCENARIO = Scenario(
    name="notification",
    proves="people are told when something fails, and notice when nothing runs at all any more",
    steps=(
        "send a test notice over every channel of the job, and over one that is broken on purpose",
        "let runs end well and badly, and count the heartbeats that a watcher of the drill's own hears",
        "ask for the status as it would be after twice the RPO without a run",
    ),
    criteria=(
        "every channel of the job delivers, beside a broken one, which is said to be broken",
        "one channel at least has a heartbeat, for a monitor elsewhere that misses it",
        "a heartbeat follows a true success and nothing else",
        "the status is stale when nothing ran",
    ),
    needs=("a job with `notify`",),
    run=run,
)
