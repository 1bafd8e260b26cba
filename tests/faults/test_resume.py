"""Runs that are killed or told to stop in the middle, in real processes: the next run uploads nothing again, opens no file
again that was finished, and ends with what an undisturbed run ends with."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backupctl.repository.check import check
from backupctl.repository.partial import Partial, partials
from backupctl.repository.repository import Repository
from tests.end_to_end.site import Site
from tests.end_to_end.test_ssh import far_hosts
from tests.faults.inside import opened
from tests.servers.sshd import Sshd
from tests.soak import rounds

# Python imports a module of this name when it starts, in every process of a run. It logs what is put and which files are
# opened, saves partials at every pause, and sends a signal at the n-th put under a prefix, before it or after it.
WATCHER = """
import json, os, sys
orders = json.loads(os.environ["RESUME_ORDERS"])

def say(*words):  # opened each time: a forked worker closes what it inherited
    log = os.open(orders["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, (json.dumps(words) + "\\n").encode())
    os.close(log)

def audit(event, arguments):
    if event == "open":
        name = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
        if name.endswith(".bin"):
            say("open", name.rpartition("/")[2])

sys.addaudithook(audit)
if "backupctl.hosts.workers" not in sys.orig_argv:
    import threading
    from backupctl.hosts.ssh import SshHost
    from backupctl.repository import writer
    from backupctl.storage.local import LocalStore
    writer.PARTIAL_SECONDS, writer.PARTIAL_SHARE = orders["seconds"], 0
    put, open_read = LocalStore.put, SshHost.open_read
    left, guard = [orders["nth"]], threading.Lock()

    def watched_put(self, name, data, **options):
        with guard:
            due = name.startswith(orders["prefix"]) if orders["prefix"] else False
            left[0] -= due
            due = due and left[0] == 0
        if due and orders["before"]:
            os.kill(os.getpid(), orders["signal"])
        put(self, name, data, **options)
        say("put", name, len(data))
        if due and not orders["before"]:
            os.kill(os.getpid(), orders["signal"])

    def watched_open(self, path, *rest, **options):
        say("open", os.fsdecode(path).rpartition("/")[2])
        return open_read(self, path, *rest, **options)

    LocalStore.put, SshHost.open_read = watched_put, watched_open
"""
DIRECTORIES, FILES, FILE_BYTES = 12, 25, 40_000
LARGE_BYTES = 9 << 20  # read by the main process, in 512 KiB to 8 MiB chunks
ONE_TREE = {f"{directory:02}-{number:02}.bin" for directory in range(DIRECTORIES) for number in range(FILES)}
NEVER = 1e9


@dataclass
class Watched:
    """What one run did: `puts` as (name, bytes), `opened` names of files, and its last JSON line."""

    code: int
    text: str
    puts: list[tuple[str, int]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    @property
    def data_names(self) -> set[str]:
        return {name for name, _ in self.puts if name.startswith("data/")}

    @property
    def finished(self) -> dict[str, Any]:
        (found,) = [one for one in map(json.loads, self.text.splitlines()) if one["type"] == "finished"]
        return dict(found)


class ResumeSite:
    def __init__(self, site: Site) -> None:
        self.site = site
        (site.root / "room").mkdir()
        (site.root / "room" / "sitecustomize.py").write_text(WATCHER)
        self.log = site.root / "watched.jsonl"
        self.tree = site.root / "input" / "www"

    def run(
        self,
        prefix: str = "",
        nth: int = 0,
        *,
        before: bool = False,
        number: int = signal.SIGKILL,
        seconds: float = 0.0,
        job: str = "site",
    ) -> Watched:
        self.log.unlink(missing_ok=True)
        orders = {"log": str(self.log), "prefix": prefix, "nth": nth, "before": before, "signal": number}
        self.site.environment = {
            "PYTHONPATH": str(self.site.root / "room"),
            "RESUME_ORDERS": json.dumps(orders | {"seconds": seconds}),
            "BACKUPCTL_WORKERS": "2",
        }
        said = self.site.run("run", job, "--json", expect=None)
        self.site.environment = {}
        words = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        puts = [(name, size) for what, name, *rest in words if what == "put" for size in rest]
        assert "Traceback" not in said.text, said.text
        return Watched(said.code, said.out, puts, [name for what, name, *_ in words if what == "open"])

    def partials(self) -> list[Partial]:
        with opened(self.site) as repository:
            return list(partials(repository))

    def finished_files(self) -> set[str]:
        """Names of the files that the newest partial has, with every blob in the index."""
        found: set[str] = set()
        with opened(self.site) as repository:
            left = list(partials(repository))
            todo = [max(left, key=lambda one: one.time).facts.tree] if left else []
            while todo:
                tree = json.loads(repository.load_blob("tree", todo.pop()))
                for node in tree["nodes"]:
                    if node["type"] == "dir":
                        todo.append(bytes.fromhex(node["subtree"]))
                    elif all(repository.has_blob("data", bytes.fromhex(blob)) for blob in node["content"]):
                        found.add(node["name"])
        return found

    def forget_everything(self, empty: Path) -> None:
        shutil.rmtree(self.site.repository)
        shutil.copytree(empty, self.site.repository)

    def assert_sound(self, tree: bytes) -> None:
        """One snapshot with that tree, nothing stored twice, nothing left over, and stock restic agrees."""
        with opened(self.site) as repository:
            (snapshot,) = repository.snapshots()
            assert input_tree(self.site, repository, snapshot.tree) == tree
            assert check(repository, read_data=True).problems == []
            assert repository.records("partial") == []
            assert_nothing_is_stored_twice(repository)
        restic = shutil.which("restic")
        if restic is not None:
            command = [restic, "--no-cache", "--repo", self.site.repository, "--password-file"]
            checked = subprocess.run(
                [*command, self.site.root / "repository.key", "check", "--read-data"], capture_output=True, text=True
            )
            assert checked.returncode == 0, checked.stdout + checked.stderr


def input_tree(site: Site, repository: Repository, tree: bytes) -> bytes:
    """The tree of the input itself: the directories above it change with every command."""
    for part in ("www", *(site.root / "input" / "www").parts[1:]):
        nodes = json.loads(repository.load_blob("tree", tree))["nodes"]
        tree = bytes.fromhex(next(node["subtree"] for node in nodes if node["name"] == part))
    return tree


def assert_nothing_is_stored_twice(repository: Repository) -> None:
    seen = [(place.blob.kind, place.blob.id) for place in repository.index]
    assert len(seen) == len(set(seen))


def fill(tree: Path) -> None:
    """Small files of two directory levels, and two large ones in the middle and at the end."""
    draw = random.Random(4)
    for directory in range(DIRECTORIES):
        inside = tree / f"{directory:02}" / "deep"
        inside.mkdir(parents=True)
        for number in range(FILES):
            (inside / f"{directory:02}-{number:02}.bin").write_bytes(draw.randbytes(FILE_BYTES))
    for name in ("05/large.bin", "zz-large.bin"):
        (tree / name).write_bytes(draw.randbytes(LARGE_BYTES))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ResumeSite, Path, bytes]]:
    """A site with an input, its empty repository, and the tree that an undisturbed run gives."""
    site = Site.create(tmp_path_factory.mktemp("resume"))
    shutil.rmtree(site.root / "input" / "www")
    del site.sources["db"]
    site.configure()
    watched = ResumeSite(site)
    fill(watched.tree)
    site.prepare()
    empty = site.root / "empty"
    shutil.copytree(site.repository, empty)
    undisturbed = watched.run(seconds=NEVER)
    assert undisturbed.code == 0
    assert {*undisturbed.opened} == {*ONE_TREE, "large.bin", "zz-large.bin"}
    with opened(site) as repository:
        (snapshot,) = repository.snapshots()
        tree = input_tree(site, repository, snapshot.tree)
    yield watched, empty, tree


@pytest.fixture
def watched(made: tuple[ResumeSite, Path, bytes]) -> tuple[ResumeSite, bytes]:
    made[0].forget_everything(made[1])
    return made[0], made[2]


POINTS = {  # prefix, number, before it is put; whether a partial is there by then
    "first pack, in no index": ("data/", 1, False, False),
    "index, no partial yet": ("index/", 1, False, False),
    "first partial": ("backupctl/partial/", 1, False, True),
    "packs in no index after a partial": ("data/", 6, False, True),
    "before the second partial": ("backupctl/partial/", 2, True, True),
    "fourth partial": ("backupctl/partial/", 4, False, True),
    "before the manifest": ("backupctl/manifest/", 1, True, True),
    "before the snapshot": ("snapshots/", 1, True, True),
}


@pytest.mark.parametrize("point", list(POINTS)[:: rounds(2, 1)])
def test_killed_and_run_again(watched: tuple[ResumeSite, bytes], point: str) -> None:
    site, tree = watched
    prefix, nth, before, expected = POINTS[point]
    killed = site.run(prefix, nth, before=before)
    assert killed.code == 1, killed.text
    assert not list(site.site.repository.glob("snapshots/*"))
    done = site.finished_files()
    assert bool(done) == expected
    again = site.run(seconds=NEVER)
    assert again.code == 0, again.text
    assert done.isdisjoint(again.opened)
    assert {*again.opened} == {*ONE_TREE, "large.bin", "zz-large.bin"} - done
    assert killed.data_names.isdisjoint(again.data_names)
    assert (again.finished["resumed_files"], again.finished["new_files"]) == (len(done), len(ONE_TREE) + 2)
    site.assert_sound(tree)


def test_killed_before_any_index_uploads_nothing_again(watched: tuple[ResumeSite, bytes]) -> None:
    site, tree = watched
    killed = site.run("index/", 1, before=True, seconds=NEVER)
    assert killed.data_names
    assert not list(site.site.repository.glob("index/*"))
    again = site.run(seconds=NEVER)
    assert [name for name, size in again.puts if name.startswith("data/") and size > 200_000] == []
    assert "that an interrupted run has uploaded" in again.text
    site.assert_sound(tree)


@pytest.mark.parametrize(
    ("number", "nth", "seconds"),
    [(signal.SIGTERM, 3, 0.0), (signal.SIGTERM, 1, NEVER), (signal.SIGALRM, 1, NEVER)],
    ids=["SIGTERM while a partial is made", "SIGTERM while the last packs are on their way", "deadline"],
)
def test_told_to_stop(watched: tuple[ResumeSite, bytes], number: int, nth: int, seconds: float) -> None:
    site, tree = watched
    stopped = site.run("data/", nth, number=number, seconds=seconds)
    assert stopped.code == (130 if number == signal.SIGTERM else 1), stopped.text
    assert not list(site.site.repository.glob("locks/*"))
    done = site.finished_files()
    assert done
    again = site.run(seconds=NEVER)
    assert done.isdisjoint(again.opened)
    assert again.finished["resumed_files"] == len(done)
    assert again.finished["resumed_bytes"] >= len(done) * FILE_BYTES
    site.assert_sound(tree)


def test_interrupted_twice(watched: tuple[ResumeSite, bytes]) -> None:
    site, tree = watched
    site.run("backupctl/partial/", 1)
    first = site.finished_files()
    second_run = site.run("backupctl/partial/", 2)
    assert first.isdisjoint(second_run.opened)
    second = site.finished_files()
    assert first < second
    last = site.run(seconds=NEVER)
    assert second.isdisjoint(last.opened)
    assert last.finished["resumed_files"] == len(second)
    site.assert_sound(tree)


def test_a_change_between_the_runs_is_noticed(watched: tuple[ResumeSite, bytes]) -> None:
    site, _ = watched
    site.run("backupctl/partial/", 3)
    done = sorted(site.finished_files() & ONE_TREE)
    changed, removed = (next(site.tree.rglob(name)) for name in (done[0], done[-1]))
    was, times = (changed.read_bytes(), removed.read_bytes()), changed.stat()
    try:
        changed.write_bytes(bytes(reversed(was[0])))
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same mtime: only ctime tells
        removed.unlink()
        again = site.run(seconds=NEVER)
        assert again.finished["resumed_files"] == len(site_files(done)) - 2 + len(large_of(site, again))
        assert changed.name in again.opened
        site.site.run("restore", "--into", "back")
        (restored,) = (site.site.root / "back").rglob(changed.name)
        assert restored.read_bytes() == bytes(reversed(was[0]))
        assert not list((site.site.root / "back").rglob(removed.name))
    finally:
        changed.write_bytes(was[0])
        removed.write_bytes(was[1])
        shutil.rmtree(site.site.root / "back", ignore_errors=True)


def site_files(names: list[str]) -> list[str]:
    return [name for name in names if name in ONE_TREE]


def large_of(site: ResumeSite, again: Watched) -> set[str]:
    """The large files that were not opened again."""
    return {"large.bin", "zz-large.bin"} - {*again.opened}


@pytest.fixture
def far(tmp_path: Path, sshd: Sshd, made: tuple[ResumeSite, Path, bytes]) -> ResumeSite:
    """The same files behind SSH, and a database beside them."""
    root = tmp_path
    site = Site.create(root)
    far_hosts(site, sshd)
    inside = made[0].tree
    site.sources = {
        "db": f"{{sqlite: {{host: web1, path: {root}/input/shop.db}}}}",
        "www": f"{{files: {{host: web1, paths: [{inside}]}}}}",
    }
    far_hosts(site, sshd)
    site.run("init")
    watched = ResumeSite(site)
    watched.tree = inside
    return watched


@pytest.mark.servers
def test_over_ssh_too(far: ResumeSite) -> None:
    killed = far.run("backupctl/partial/", 40)
    assert killed.code == 1, killed.text
    done = far.finished_files()
    assert 20 < len(done) < len(ONE_TREE)
    again = far.run(seconds=NEVER)
    assert again.code == 0, again.text
    assert {*again.opened} == {*ONE_TREE, "large.bin", "zz-large.bin"} - done
    assert len(again.opened) == len({*again.opened})
    assert again.finished["resumed_files"] == len(done)
    assert [one for one in again.puts if one[0] in killed.data_names] == []
    with opened(far.site) as repository:
        assert check(repository, read_data=True).problems == []
        assert_nothing_is_stored_twice(repository)
        (resumed,) = repository.snapshots()
    shutil.rmtree(far.site.repository)
    far.site.run("init", expect=None)
    undisturbed = far.run(seconds=NEVER)
    assert undisturbed.finished["bytes"] == again.finished["bytes"]
    assert resumed.summary["total_files_processed"] == undisturbed.finished["files"]
