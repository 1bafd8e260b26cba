"""Where damage is planted: a whole site inside this process, with one database source, and the ways to damage it."""

from __future__ import annotations

import shutil
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backupctl.hosts.protocol import Process
from backupctl.sources.protocol import Fingerprint, Instance
from backupctl.sources.streams import ProcessStream
from tests.damage.matrix import HEALTHY_ROUNDS_OF_A_SOAK, Case, Rows
from tests.end_to_end.processes import wait_until
from tests.faults.inside import InsideSite
from tests.soak import rounds

Edit = Callable[[bytes], bytes]
Plant = Callable[[pytest.MonkeyPatch, "Stage"], None]
Load = Callable[[], AbstractContextManager[object]]


@dataclass
class Stage:
    """`options` is the source's configuration in YAML, as it is when nothing is wrong. `server`: what the plants of that kind work
    on. `after_run` happens between a run that succeeded and the drill of it."""

    site: InsideSite
    kind: str
    options: str
    server: Any = None
    after_run: Callable[[], object] = lambda: None
    resources: ExitStack = field(default_factory=ExitStack)  # what a plant has to take back

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The configuration of a healthy set-up; what earlier cases left in the repository stays."""
        self.after_run = lambda: None
        self.configure(self.options)
        with ExitStack() as self.resources:
            yield

    def configure(self, options: str, *, main: str = "", job: str = "") -> None:
        """`main` and `job`: text to find and what stands there instead, as `old => new`, in the main file and the job."""
        self.site.sources = {"db": f"{{{self.kind}: {options}}}"}
        self.site.configure()
        for path, change in (("backupctl.yaml", main), ("jobs/site.yaml", job)):
            if change:
                old, new = change.split(" => ")
                file = self.site.root / path
                assert old in file.read_text()
                file.write_text(file.read_text().replace(old, new))

    def never_suspected(self, rows: Rows, load: Load, options: str = "") -> None:
        """Rounds in which nothing may be told, although the source is written to while it is backed up."""
        with self.prepared():
            self.configure(options or self.options)
            for _ in range(rounds(rows.healthy_rounds, HEALTHY_ROUNDS_OF_A_SOAK)):
                self.complete(load)
                done = self.site.run("drill", "run", "--json").line("finished")
                assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True), done
                assert done["level"] >= 4

    def complete(self, load: Load) -> dict[str, Any]:
        """What a run under load says at its end. The load is over then: a drill reads the repository alone."""
        with load():
            done = self.site.run("run", "--json").line("finished")
        assert done["state"] == "complete", done
        return done

    def tells(self, cases: Sequence[Case], plants: Mapping[str, Plant], monkeypatch: pytest.MonkeyPatch) -> None:
        with self.prepared():
            for case in cases:
                plants[case.damage](monkeypatch, self)
            if len(cases) == 1:
                self._told(cases[0])
            else:
                self._told_each(cases)

    def _told(self, case: Case) -> None:
        """The command that has to tell it has run, and said what the case declares."""
        said = self.site.run("run", "--json", expect=None)
        if case.told_by == "drill":
            assert said.code == 0, f"the run told it already: {said.text}"
            self.after_run()
            said = self.site.run("drill", "run", "--json", expect=None)
        done = said.line("finished")
        found = (done["state"] if case.told_by == "run" else done["verdict"], said.code)
        assert found == (case.verdict, case.code), said.text
        text = said.text
        if case.told_by == "drill":
            assert done["level"] == case.level, said.text
            text = "\n".join(self.reasons())
        assert case.names in text, said.text

    def _told_each(self, cases: Sequence[Case]) -> None:
        """Damages that were planted together: each is named, and nothing is named that belongs to none."""
        self._told(cases[0])
        reasons = self.reasons()
        missed = [case.damage for case in cases if not any(case.names in reason for reason in reasons)]
        unfounded = [reason for reason in reasons if not any(one in reason for case in cases for one in case.all_names)]
        assert not missed and not unfounded, f"missed {missed}, unfounded {unfounded}, of {reasons}"
        first = cases[0]
        assert {(one.verdict, one.code, one.level) for one in cases} == {(first.verdict, first.code, first.level)}

    def reasons(self) -> list[str]:
        """Of the last drill."""
        shown = self.site.run("drill", "show", "site/full", "--json").line("drill")
        return [str(one) for one in shown["reasons"]]


@contextmanager
def stage(kind: str, options: str, server: object = None) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        # servers of a drill run as another user, who must be able to reach the directory
        directory = Path(tempfile.mkdtemp(prefix="bctl-damage-", dir="/tmp"))
        directory.chmod(0o711)
        try:
            yield Stage(InsideSite.start(directory, monkeypatch), kind, options, server)
        finally:
            shutil.rmtree(directory)


def each_of(rows: Rows) -> pytest.MarkDecorator:
    """A test for each damage that is planted alone, and one for those that are planted together: its `cases`."""
    groups = [[case] for case in rows.cases if rounds(not (case.together or case.in_a_soak), True)]
    together = [case for case in rows.cases if case.together]
    groups += [together] if together else []
    return pytest.mark.parametrize(
        "cases", groups, ids=lambda cases: cases[0].damage if len(cases) == 1 else "all that come together"
    )


def edited(item: str, edit: Edit) -> Plant:
    return lambda monkeypatch, site: edit_stream(monkeypatch, item, edit)


def edit_stream(monkeypatch: pytest.MonkeyPatch, item: str, edit: Edit) -> None:
    """What the dump program wrote for what is called `item` comes out of it as `edit` makes it, with exit status 0: a program
    that lies, or a connection that swallows."""
    original = ProcessStream.__init__

    def planted(self: ProcessStream, process: Process, **options: Any) -> None:
        if item in options["item"]:
            whole = options.pop("already", b"") + b"".join(iter(lambda: process.stdout.read(1 << 20), b""))
            options["already"] = edit(whole)
        original(self, process, **options)

    monkeypatch.setattr(ProcessStream, "__init__", planted)


def during_dump(monkeypatch: pytest.MonkeyPatch, item: str, action: Callable[[Process], object]) -> None:
    """`action` happens, with the dump's process, once the first bytes of what is called `item` are there."""
    monkeypatch.setattr("backupctl.hosts.pipes.PIPE_BYTES", 1 << 12)  # else a small dump has ended by then
    original = ProcessStream.read
    met: list[str] = []

    def planted(self: ProcessStream, size: int = -1, /) -> bytes:
        if item in self._item and not met:
            met.append(item)
            action(self._process)
        return original(self, size)

    monkeypatch.setattr(ProcessStream, "read", planted)


def killed(item: str) -> Plant:
    """kill -9, and nothing is read before it is dead."""

    def kill(process: Any) -> None:
        process.kill()
        process.wait()

    return lambda monkeypatch, site: during_dump(monkeypatch, item, kill)


def restored(source: Any, change: Callable[[Instance], object]) -> Plant:
    """`change` works on the restored copy between its loading and its comparison by the class `source`."""

    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        original = source.compare

        def planted(self: Any, instance: Instance, fingerprint: Fingerprint) -> Any:
            change(instance)
            return original(self, instance, fingerprint)

        monkeypatch.setattr(source, "compare", planted)

    return plant


def replaced(old: bytes, new: bytes) -> Edit:
    """An edit that fails when there is nothing to change."""

    def edit(whole: bytes) -> bytes:
        assert old in whole, f"{old!r} is not in {whole[:2000]!r}"
        return whole.replace(old, new, 1)

    return edit


def flipped_near_the_end(whole: bytes) -> bytes:
    """One bit, in a checksum or just before it."""
    return whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]


def halved(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def wrong_key(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    other = stage.site.root / "other.key"
    other.touch(0o600)
    other.write_text("another password\n")
    stage.configure(stage.options, main="file: repository.key => file: other.key")


def full_disk(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    """On the staging host, between the run and its drill."""

    def fill() -> None:
        monkeypatch.setattr("backupctl.hosts.local.LocalHost.free_bytes", lambda host, path: 4096)

    stage.after_run = fill


def stale(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    """The objective is one second, and the backup is two seconds old when it is drilled."""
    stage.configure(stage.options, job="rpo: 24h => rpo: 1s")

    def grow_old() -> None:
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 2.0, "the backup to become stale")

    stage.after_run = grow_old


def programs(stage: Stage, real: Sequence[str], **bodies: str) -> str:
    """A directory of programs, `real` ones by their paths, of which some are shell scripts instead (`_` stands for `-`, unless a
    real program is called so)."""
    directory = Path(tempfile.mkdtemp(dir=stage.site.root))
    directory.chmod(0o755)
    for path in real:
        (directory / Path(path).name).symlink_to(path)
    for name, body in bodies.items():
        file = directory / name
        file = file if file.exists() else directory / name.replace("_", "-")
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
    return str(directory)


@contextmanager
def cut_after(address: tuple[str, int] | str, limit: int) -> Iterator[int]:
    """A port of this machine that leads to `address` (or a Unix socket); a connection ends after `limit` bytes of answer."""
    proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), partial(_Cut, address, limit), bind_and_activate=True)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield int(proxy.server_address[1])
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Cut(socketserver.BaseRequestHandler):
    def __init__(self, address: tuple[str, int] | str, limit: int, *context: Any) -> None:
        self._address, self._left = address, limit
        super().__init__(*context)

    def handle(self) -> None:
        far = socket.socket(socket.AF_UNIX) if isinstance(self._address, str) else socket.socket()
        with far, suppress(OSError):
            far.connect(self._address)
            back = threading.Thread(target=self._copy_questions, args=(far,), daemon=True)
            back.start()
            while self._left > 0 and (data := far.recv(min(65536, self._left))):
                self._left -= len(data)
                self.request.sendall(data)
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)

    def _copy_questions(self, far: socket.socket) -> None:
        with suppress(OSError):
            while data := self.request.recv(65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)
