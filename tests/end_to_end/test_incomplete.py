"""Files that change, vanish or cannot be read make a run incomplete, named everywhere and counted nowhere; odd files do not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from backupctl.clock import SystemClock
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.end_to_end.processes import opened, wait_until
from tests.end_to_end.site import Said, Site
from tests.end_to_end.trees import tree
from tests.nasty_tree import build_nasty_tree
from tests.servers.sshd import descendants

pytestmark = pytest.mark.servers

BIG = os.urandom(1 << 20) * 256


def while_reading(site: Site, path: Path, change: Callable[[], None]) -> Said:
    """A run, with `change` made while it has `path` open."""
    running = site.start("run", "--json")
    wait_until(lambda: any(opened(pid, path) for pid in descendants(running.pid)), f"{path} to be read")
    change()
    return site.ended(running, expect=3)


def named_everywhere(site: Site, said: Said, path: Path, kind: str) -> None:
    """In the output, the catalog and the fingerprint record; the snapshot is tagged and does not count."""
    inside = str(path.relative_to("/"))
    (problem,) = [line for line in said.lines if line["type"] == "problem"]
    assert (problem["source"], problem["path"], problem["kind"]) == ("www", inside, kind), problem
    finished = said.line("finished")
    assert finished["state"] == "incomplete"
    catalog = sqlite3.connect(site.root / "catalog.db")
    recorded = catalog.execute("select problems from runs where id = ?", (finished["run"],)).fetchone()
    catalog.close()
    assert [one["path"] for one in json.loads(recorded[0])] == [inside]
    store = LocalStore(site.repository)
    repository = Repository.open(store, (site.root / "repository.key").read_text().strip(), clock=SystemClock())
    snapshot = repository.load_snapshot(finished["snapshot"])
    assert not SnapshotTags.of(snapshot).complete
    fingerprint = fingerprint_of(repository, snapshot)
    assert fingerprint["status"] == "incomplete"
    assert [(one["source"], one["path"]) for one in fingerprint["problems"]] == [("www", inside)]
    store.close()


def counts_for_nothing(site: Site) -> None:
    """One incomplete snapshot and nothing else: stale, and not restored unless named."""
    assert "there is no complete snapshot" in site.run("status", expect=6).err
    assert "all incomplete" in site.run("restore", "--into", "back", expect=10).err
    site.run("drill", "run", expect=(5, 6))
    (listed,) = [line for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    assert listed["status"] == "incomplete"
    site.run("restore", "--at", listed["snapshot"], "--into", "back", expect=(0, 3))


def test_a_file_that_changes_while_it_is_read(site: Site) -> None:
    path = site.root / "input" / "www" / "growing.log"
    path.write_bytes(BIG)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"one line more\n")

    said = while_reading(site, path, grow)
    named_everywhere(site, said, path, "changed")
    path.unlink()
    counts_for_nothing(site)
    assert site.run("run", "--json").line("finished")["state"] == "complete"


def test_a_file_that_vanishes_before_it_is_read(site: Site) -> None:
    www = site.root / "input" / "www"
    (www / "a-big").write_bytes(BIG)
    (www / "z-vanishing").write_text("gone in a moment\n")
    said = while_reading(site, www / "a-big", (www / "z-vanishing").unlink)
    named_everywhere(site, said, www / "z-vanishing", "vanished")
    (www / "a-big").unlink()
    assert site.run("run", "--json").line("finished")["state"] == "complete"


def test_a_file_and_a_directory_that_may_not_be_read(open_site: Site) -> None:
    site = open_site
    if os.geteuid() == 0:  # root without the right to read what is locked; another user may not reach the interpreter
        site.before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--")
    site.prepare()
    locked = site.root / "input" / "www" / "locked"
    locked.write_text("for other eyes\n")
    locked.chmod(0)
    said = site.run("run", "--json", expect=3)
    named_everywhere(site, said, locked, "unreadable")
    assert str(locked.relative_to("/")) in site.run("run", expect=3).text
    locked.chmod(0o644)
    deep = site.root / "input" / "www" / "deep"
    deep.chmod(0)
    said = site.run("run", "--json", expect=3)
    deep.chmod(0o755)
    named_everywhere(site, said, deep, "unreadable")
    assert site.run("run", "--json").line("finished")["state"] == "complete"


def test_retention_and_freshness_ignore_what_is_incomplete(site: Site) -> None:
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("keep_daily: 7", "keep_last: 1"))
    site.run("run")
    (good,) = [line["snapshot"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    (site.root / "input" / "shop.db").write_bytes(b"this is no database")
    site.run("run", expect=3)
    site.run("run", expect=3)
    site.run("prune", "--apply")
    kept = [line["snapshot"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    assert good in kept, "incomplete ones are no reason to expire a complete one"
    status = site.run("status", "--json").line("status")
    assert (status["state"], status["last_run"]) == ("ok", "incomplete")
    assert "last run incomplete" in site.run("status").err
    said = site.run("restore", "--into", "back")
    assert "incomplete" in said.err, "a newer one that was passed over is told"
    assert (site.root / "back" / "db" / "shop.db").read_bytes().startswith(b"SQLite format 3")


@pytest.fixture
def nasty(site: Site) -> Site:
    """A site with every kind of file there is."""
    www = site.root / "input" / "www"
    shutil.rmtree(www)
    www.mkdir()
    build_nasty_tree(www)
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(www / "special")  # the path of a socket is short
    listener.bind("socket")
    os.chdir(here)
    listener.close()
    os.utime(www / "special", ns=(1_600_000_000_987_654_321, 1_600_000_000_987_654_321))
    return site


def test_every_kind_of_file_passes_unharmed(nasty: Site) -> None:
    site, www = nasty, nasty.root / "input" / "www"
    assert site.run("run", "--json").line("finished")["state"] == "complete"
    again = site.run("run", "--json").line("finished")
    assert again["new_files"] == 0
    assert again["changed_files"] == 1, "the copy of the database, which is always read"
    site.run("restore", "--into", "back")
    back = site.root / "back" / "www" / str(www.relative_to("/"))
    was = tree(www)
    del was[b"special/socket"]  # means nothing without the program that listens
    assert tree(back) == was
    assert (back / "sizes" / "sparse").stat().st_blocks * 512 < (1 << 20), "a hole stays a hole"
    assert site.run("drill", "run", "--json").line("finished")["verdict"] == "pass"


def test_names_that_are_not_utf8_are_listed_and_found(nasty: Site) -> None:
    site = nasty
    site.run("run")
    listed = site.run("ls", "site", "-r")
    assert "bad-\\xff\\xc3-utf8" in listed.out
    assert "dir-\\xfe/inside" in listed.out
    assert "資料備份" in listed.out
    assert "tab\\tbell\\x07del\\x7f" in listed.out, "no control character reaches the terminal"
    entries = [line for line in site.run("ls", "site", "-r", "--json").lines if line["type"] == "entry"]
    kinds = {line["path"].rpartition("/")[2]: line["kind"] for line in entries}
    assert kinds["fifo"] == "fifo"
    assert kinds["dangling"] == "symlink"
    assert kinds["bad-\\xff\\xc3-utf8"] == "file"
    found = site.run("find", "*-utf8", "--json")
    names = {line["path"].rpartition("/")[2] for line in found.lines if line["type"] == "found"}
    assert names == {"bad-\\xff\\xc3-utf8", "not-utf8"}
    assert "latin-\\xe9" in site.run("find", "latin*").out
    below = f"www{site.root}/input/www/names"
    inside = site.run("ls", "site", f"{below}/dir-\udcfe")
    assert inside.out.rstrip().endswith("dir-\\xfe/inside")
    site.run("restore", "--only", f"{below}/bad-\udcff\udcc3-utf8", "--into", "one")
    assert os.listdir(os.fsencode(site.root / "one")) == [b"bad-\xff\xc3-utf8"]
    assert site.run("find", "nowhere*", expect=10).out == ""
