"""Every kind of repository object, damaged in every way, against every command that meets it.

The expected exit codes stand in `damage_matrix.py`, and as `docs/reference/damage-matrix.md` for people."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.repository.repository import pack_name
from tests.faults import damage_matrix
from tests.faults.damage_matrix import BY_CHANCE, COMMANDS, DAMAGES, EXPECTED, KINDS, NAMED_OTHERWISE
from tests.faults.inside import InsideSite, opened

PROJECT = Path(__file__).parents[2]


class Prepared:
    """Two runs. What the second one added can be damaged, and the first one must survive that."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = InsideSite.start(root, monkeypatch)
        del self.site.sources["db"]
        self.site.configure()
        self.site.run("run")
        self.first = self.site.run("snapshots", "--json").lines[0]["snapshot"]
        before = set(self.names())
        (root / "input" / "www" / "new.bin").write_bytes(os.urandom(20_000))
        self.site.run("run")
        self.added = {kind: self._pick(kind, set(self.names()) - before) for kind in KINDS if kind != "lock"}
        self.added["lock"] = self._lock()
        self._saved = root / "saved"
        self._saved.mkdir()
        shutil.copytree(self.site.repository, self._saved / "repository")
        shutil.copy(root / "catalog.db", self._saved / "catalog.db")

    def names(self) -> list[str]:
        root = self.site.repository
        return [str(one.relative_to(root)) for one in root.rglob("*") if one.is_file()]

    def _pick(self, kind: str, added: set[str]) -> str:
        if kind == "config":
            return kind
        if kind == "key":
            return next(name for name in self.names() if name.startswith("keys/"))
        if kind in ("data pack", "tree pack"):
            wanted = kind.partition(" ")[0]
            with opened(self.site) as repository:
                places = list(repository.index)
            packs = {f"data/{place.pack.hex()[:2]}/{place.pack.hex()}": place.blob.kind for place in places}
            return next(name for name in added if packs.get(name) == wanted)
        folder = {"index": "index/", "snapshot": "snapshots/"}.get(kind, f"backupctl/{kind}/")
        return next(name for name in added if name.startswith(folder))

    def _lock(self) -> str:
        """The lock of a living process (this one), put back after it was released properly."""
        with opened(self.site) as repository, repository.lock() as lock:
            assert lock.info is not None
            name = f"locks/{lock.info.id}"
            data = (self.site.repository / name).read_bytes()
        (self.site.repository / name).write_bytes(data)
        return name

    def reset(self) -> None:
        self.site.configure()
        root = self.site.root
        shutil.rmtree(self.site.repository)
        shutil.copytree(self._saved / "repository", self.site.repository)
        shutil.copy(self._saved / "catalog.db", root / "catalog.db")
        for leftover in ("newest", "previous"):
            shutil.rmtree(root / leftover, ignore_errors=True)

    def damage(self, kind: str, how: str) -> Path:
        if kind != "lock":
            (self.site.repository / self.added["lock"]).unlink()
        file = self.site.repository / self.added[kind]
        data = bytearray(file.read_bytes())
        if how == "deleted":
            file.unlink()
            return file
        if how == "one flipped bit":
            data[self._tree_middle() if kind == "tree pack" else len(data) // 2] ^= 8
        file.write_bytes({"cut in half": data[: len(data) // 2], "zero length": b""}.get(how, data))
        return file

    def _tree_middle(self) -> int:
        """In the tree of `www`, the longest: blobs stand in a pack in any order."""
        with opened(self.site) as repository:
            inside = [place.blob for place in repository.index if pack_name(place.pack) == self.added["tree pack"]]
        longest = max(inside, key=lambda blob: blob.length)
        return longest.offset + longest.length // 2

    def commands(self) -> dict[str, list[str]]:
        return {
            "check": ["check"],
            "check --read-data": ["check", "--read-data"],
            "drill run": ["drill", "run"],
            "restore newest": ["restore", "--into", "newest"],
            "restore previous": ["restore", "--at", self.first, "--into", "previous"],
            "next run": ["run"],
            "drill after it": ["drill", "run"],
        }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Prepared(tmp_path_factory.mktemp("damage"), monkeypatch)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_found_and_named(prepared: Prepared, kind: str, how: str) -> None:
    prepared.reset()
    prepared.damage(kind, how)
    said = {name: prepared.site.run(*arguments, expect=None) for name, arguments in prepared.commands().items()}
    expected = dict(zip(COMMANDS, EXPECTED[kind, how], strict=True))
    for name, one in said.items():
        if one.code == BY_CHANCE.get((kind, how, name)):
            expected[name] = one.code
    assert {name: one.code for name, one in said.items()} == expected
    wanted = NAMED_OTHERWISE.get((kind, how)) or prepared.added[kind].rpartition("/")[2]
    for name, one in said.items():
        assert one.code == 0 or wanted in one.text, f"{name} does not name {wanted}:\n{one.text}"
    if said["restore newest"].code == 0 and (kind, how) != ("snapshot", "deleted"):
        restored = next((prepared.site.root / "newest").rglob("new.bin"))
        assert restored.read_bytes() == (prepared.site.root / "input" / "www" / "new.bin").read_bytes()
    if said["restore previous"].code == 0:
        picture = next((prepared.site.root / "previous").rglob("picture.bin"))
        assert picture.read_bytes() == (prepared.site.root / "input" / "www" / "deep" / "picture.bin").read_bytes()
        assert not list((prepared.site.root / "previous").rglob("new.bin"))


@pytest.mark.parametrize("kind", ["config", "key"])
def test_what_was_put_back_is_as_good_as_new(prepared: Prepared, kind: str) -> None:
    prepared.reset()
    whole = (prepared.site.repository / prepared.added[kind]).read_bytes()
    file = prepared.damage(kind, "one flipped bit")
    prepared.site.run("run", expect=4)
    file.write_bytes(whole)
    prepared.site.run("run")
    prepared.site.run("check", "--read-data")


def test_an_unreadable_lock_is_removed_when_it_is_old(prepared: Prepared) -> None:
    prepared.reset()
    lock = prepared.damage("lock", "one flipped bit")
    prepared.site.run("run", expect=11)
    an_hour_ago = time.time() - 3600
    os.utime(lock, (an_hour_ago, an_hour_ago))
    prepared.site.run("run")
    assert not lock.exists()


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["data pack", "tree pack"])
def test_damage_heals_when_the_source_still_has_it(prepared: Prepared, kind: str, how: str) -> None:
    """Found by a check, stored again by the next run, cleared away by prune. What a run cannot store again (trees of an
    older snapshot) keeps prune from deleting anything until that snapshot is forgotten; then all is well again."""
    site = prepared.site
    prepared.reset()
    prepared.damage(kind, how)
    hit = site.run("snapshots", "--json").lines[1]["snapshot"]
    site.run("check", "--read-data", expect=4)
    assert "stored again" in site.run("run").text
    if kind == "data pack":
        site.run("restore", "--at", hit, "--into", "newest")
    else:
        job = site.root / "jobs" / "site.yaml"
        policy = job.read_text()
        job.write_text(policy.replace("keep_daily: 7", "keep_last: 3"))
        if how != "one flipped bit":
            assert "nothing was deleted" in site.run("prune", "--apply", expect=4).err
        job.write_text(policy.replace("keep_daily: 7", "keep_last: 1"))
    site.run("prune", "--apply")
    site.run("check", "--read-data")
    site.run("drill", "run")


def test_a_wrong_password_is_told_apart_from_damage(prepared: Prepared) -> None:
    prepared.reset()
    prepared.damage("lock", "deleted")
    key = prepared.site.root / "repository.key"
    right = key.read_text()
    key.write_text("not the password")
    try:
        for arguments in prepared.commands().values():
            said = prepared.site.run(*arguments, expect=12)
            assert "error: " in said.err
            assert "the configured password opens none of the repository's keys (1)" in said.err
            assert "next: " in said.err
    finally:
        key.write_text(right)
    prepared.site.run("run")


def test_the_documented_matrix_is_this_one() -> None:
    assert (PROJECT / "docs" / "reference" / "damage-matrix.md").read_text() == damage_matrix.markdown()
