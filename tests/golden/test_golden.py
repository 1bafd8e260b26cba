"""What was once written can be read forever, and what was once found wrong is found wrong forever."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import DamageError, UserError, WrongKeyError
from backupctl.governance.holds import holds
from backupctl.hosts.local import LocalHost
from backupctl.operations import records
from backupctl.repository.check import check
from backupctl.repository.format.names import display_name
from backupctl.repository.ledger import Ledger
from backupctl.repository.manifest import read_manifest
from backupctl.repository.prune_plan import plan_prune
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.verify import verify_tree
from backupctl.storage.local import LocalStore
from tests.end_to_end.site import Site
from tests.faults.inside import InsideChild, InsideSite
from tests.golden import content, damage, damaged, make
from tests.golden.content import only_known, restored
from tests.golden.golden import GOLDEN, HERE, INDEX, NOW, PASSWORD, Golden, digest, digests
from tests.interop import stock

WHOLE = [golden for golden in GOLDEN if "structure" not in golden.expected]
DAMAGED = [golden for golden in GOLDEN if "structure" in golden.expected]
HOST = LocalHost("local")
each_whole = pytest.mark.parametrize("golden", WHOLE, ids=lambda golden: golden.name)
each_damaged = pytest.mark.parametrize("golden", DAMAGED, ids=lambda golden: golden.name)
each_way = pytest.mark.parametrize("way", ["structure", "read_data"])


# the set


def test_no_repository_without_expectation_and_none_without_repository() -> None:
    present = {path.name for path in HERE.iterdir()} - {INDEX.name}
    assert present == {f"{golden.name}{ending}" for golden in GOLDEN for ending in (".tar.gz", ".json")}
    assert {"base", *damage.CASES} <= digests().keys()
    assert {"ours", "two-keys", "mixed-compression", "upgraded-from-v1", "restic-0.14-v1"} <= digests().keys()
    assert sum(path.stat().st_size for path in HERE.iterdir()) < 1 << 20


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_what_was_committed_stays_as_it_is(golden: Golden) -> None:
    assert digests()[golden.name] == {"tar": digest(golden.tar), "json": digest(golden.json)}


def test_the_maker_replaces_nothing_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(Golden("base").tar)
    with pytest.raises(SystemExit) as ended:
        make.main(["base"])
    assert ended.value.code == 2
    assert "there already" in capsys.readouterr().err
    assert digest(Golden("base").tar) == before


# whole ones


@each_whole
def test_whole_ones_are_read_in_full(golden: Golden, tmp_path: Path) -> None:
    expected = golden.expected
    repository = golden.open()
    assert repository.config.version == expected["version"]
    found = repository.snapshots()
    assert [(one.id, one.time.isoformat()) for one in found] == [
        (one["id"], one["time"]) for one in expected["snapshots"]
    ]
    for number, (snapshot, wanted) in enumerate(zip(found, expected["snapshots"], strict=True)):
        if "paths" in wanted:
            tags = [tag for tag in snapshot.tags if ":" not in tag]
            assert (snapshot.hostname, snapshot.paths, tags) == (wanted["hostname"], wanted["paths"], wanted["tags"])
        with SnapshotReader(repository, snapshot) as reader:
            listed = {display_name(path) for path, _ in reader.walk(wanted["root"].encode())}
        above = f"{wanted['root']}/" if wanted["root"] else ""
        assert {path.removeprefix(above) for path in listed} - {wanted["root"]} == wanted["files"].keys()
        files, problems = restored(repository, wanted, tmp_path / str(number))
        assert problems == []
        assert files.keys() == wanted["files"].keys()
        assert only_known(files, wanted["files"]) == wanted["files"]


@each_whole
@each_way
def test_whole_ones_are_found_whole(golden: Golden, way: str) -> None:
    repository = golden.open()
    with repository.lock():
        report = check(repository, read_data=way == "read_data")
    assert report.problems == []
    assert report.snapshots == len(golden.expected["snapshots"])
    assert report.packs_read == report.packs or way == "structure"


@each_whole
def test_every_password_opens(golden: Golden) -> None:
    ids = {golden.open(password).id for password in golden.expected["passwords"]}
    assert len(ids) == 1
    with pytest.raises(WrongKeyError):
        golden.open("not the password")


@each_whole
def test_our_records_are_read(golden: Golden, tmp_path: Path) -> None:
    repository, expected = golden.open(), golden.expected
    kinds = [info.name.split("/")[1] for info in repository.store.list("backupctl/")]
    assert Counter(kinds) == expected["records"]
    for kind in expected["records"]:
        for record_id in repository.records(kind):
            assert repository.load_record(kind, record_id)
    if "hold" not in expected["records"]:
        return
    (hold,) = holds(repository)
    last = expected["snapshots"][-1]
    assert (hold.snapshot, hold.reason, hold.owner) == (last["id"], "kept forever", "the tests")
    sizes = {place.pack: 0 for place in repository.index}
    assert Ledger(repository).coverage(sizes, {}).never_read_packs == 0
    for record_id in repository.records("check"):
        assert records.load_json(repository, "check", record_id)["verdict"] == "pass"
    fingerprint = records.fingerprint_of(repository, repository.load_snapshot(last["id"]))
    restored(repository, last, tmp_path / "target")
    manifest = read_manifest(repository, fingerprint["manifest"])
    verified = verify_tree(HOST, os.fsencode(tmp_path / "target"), manifest, "www", path=last["root"].encode()[4:])
    assert (verified.differences, verified.unchecked) == ([], [])
    assert verified.entries == len(last["files"])


@pytest.mark.parametrize("golden", [one for one in WHOLE if one.expected["version"] == 1], ids=lambda one: one.name)
def test_version_1_is_not_written_to(golden: Golden) -> None:
    store = golden.store()
    repository = Repository.open(store, PASSWORD, clock=FakeClock(NOW))
    before = {info.name for info in store.list("")}
    for act in (repository.blob_saver, lambda: plan_prune(repository), lambda: repository.save_index([])):
        with repository.lock(), pytest.raises(UserError, match="version 1") as refused:
            act()
        assert "migrate upgrade_repo_v2" in refused.value.next_step
    assert {info.name for info in store.list("")} == before


# damaged ones


def lost(path: str, below: list[str]) -> bool:
    return any(one == "/" or f"/{path}" == one or f"/{path}".startswith(one + "/") for one in below)


@each_damaged
@each_way
def test_damage_is_found_and_named(golden: Golden, way: str) -> None:
    expected = golden.expected
    if expected["shut"]:
        with pytest.raises(DamageError) as refused:
            golden.open()
        assert refused.value.name == expected["shut"]
        assert refused.value.exit_code == expected[way]["code"]
        return
    repository = golden.open()
    with repository.lock():
        report = check(repository, read_data=way == "read_data")
    assert damaged.told(report) == expected[way]["problems"]
    assert (4 if report.problems else 0) == expected[way]["code"]
    for hint in expected["hints"]:
        assert any(hint in said for said in report.hints)


@each_damaged
def test_what_is_not_hit_restores_byte_for_byte_and_nothing_wrong_is_restored(golden: Golden, tmp_path: Path) -> None:
    expected = golden.expected
    if expected["shut"]:
        return
    for number, snapshot in enumerate(expected["snapshots"]):
        problems = [one for one in expected["read_data"]["problems"] if snapshot["id"] in one["snapshots"]]
        if any(one["name"] == f"snapshots/{snapshot['id']}" for one in problems):
            with pytest.raises(DamageError, match=snapshot["id"]):
                golden.open().load_snapshot(snapshot["id"])
            continue
        wanted: dict[str, Any] = snapshot["files"]
        paths = [] if snapshot["id"] in expected["whole"] else [path for one in problems for path in one["paths"]]
        files, said = restored(golden.open(), snapshot, tmp_path / str(number))
        assert bool(said) == bool(paths)
        assert files.keys() <= wanted.keys()
        assert files.keys() >= {path for path in wanted if not lost(path, paths)}
        assert only_known(files, wanted) == {path: wanted[path] for path in files}


# through the command line


def site_of(golden: Golden, root: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The command line over a golden repository, in this process."""
    site = InsideSite(root)
    monkeypatch.setattr("backupctl.hosts.child.may_fork", lambda: False)
    monkeypatch.setattr("backupctl.scheduling.launch.FreshChild", InsideChild)
    monkeypatch.chdir(root)
    golden.extract(root / "repository")
    (root / "repository.key").touch(0o600)
    (root / "repository.key").write_text(PASSWORD)
    (root / "jobs").mkdir()
    site.sources = {"www": "{files: {paths: [/nowhere]}}"}
    site.configure()
    return site


@pytest.mark.parametrize("name", ["ours", "restic-0.14-v1", "restic-0.19-v2"])
def test_commands_read_whole_ones(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden(name)
    site = site_of(golden, tmp_path, monkeypatch)
    last = golden.expected["snapshots"][-1]
    site.run("check", "--read-data")
    listed = {line["snapshot"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"}
    assert {one["id"] for one in golden.expected["snapshots"]} <= listed
    assert "photo.jpg" in site.run("ls", last["id"], last["root"] or "/").out
    site.run("restore", "site", "--at", last["id"], "--into", str(tmp_path / "target"))
    files = content.facts(tmp_path / "target" / last["root"])
    assert only_known(files, last["files"]) == last["files"]


@pytest.mark.parametrize(
    "name", ["bit-in-data-pack", "config-missing", "bit-in-snapshot", "lock-left-behind", "size-lie"]
)
def test_commands_say_what_is_damaged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden(name)
    expected = golden.expected
    site = site_of(golden, tmp_path, monkeypatch)
    for way, options in (("structure", ()), ("read_data", ("--read-data",))):
        said = site.run("check", *options, expect=expected[way]["code"])
        for wanted in [one["name"] for one in expected[way]["problems"]] or [expected["shut"]]:
            assert wanted in said.text
    if not expected["shut"]:
        first = expected["snapshots"][0]
        site.run("restore", "site", "--at", first["id"], "--into", str(tmp_path / "target"))
        assert only_known(content.facts(tmp_path / "target"), first["files"]) == first["files"]


# and stock restic


@pytest.mark.servers
@each_whole
def test_stock_restic_finds_them_whole(golden: Golden, tmp_path: Path) -> None:
    stock.required()
    found = damaged.restic_checks(stock.newest(), golden.objects())
    assert found == {"structure": 0, "read_data": 0}


@pytest.mark.servers
@each_damaged
def test_stock_restic_says_what_it_said(golden: Golden) -> None:
    """The newest that is here: as the newest of those that were asked and are no newer."""
    stock.required()
    said = golden.expected["restic"]
    version = stock.version_of(stock.newest())
    known = {tuple(map(int, text.split("."))): codes for text, codes in said.items() if text != "why"}
    if not known:
        assert golden.name in damage.BY_CHANCE
        return
    assert damaged.restic_checks(stock.newest(), golden.objects()) == known[max(one for one in known if one <= version)]


def test_where_stock_restic_disagrees_there_is_a_reason() -> None:
    for golden in DAMAGED:
        if golden.name in damage.BY_CHANCE:
            continue
        expected = golden.expected
        newest = [codes for version, codes in expected["restic"].items() if version != "why"][-1]
        differs = any(bool(newest[way]) != bool(expected[way]["code"]) for way in newest)
        assert differs == bool(expected["restic"]["why"]), golden.name


@pytest.mark.servers
def test_what_stock_restic_left_out_does_not_pass_for_what_was_there(tmp_path: Path) -> None:
    """After `rewrite --forget` a snapshot is still tagged `complete` and names our fingerprint."""
    stock.required()
    restic = stock.Restic(stock.newest(), tmp_path, PASSWORD)
    path = Golden("ours").extract(tmp_path / "repository")
    if restic.version < (0, 15):
        return
    restic(path, "rewrite", "--forget", "--exclude", "photo.jpg", "latest")
    for number, prune in enumerate((False, True)):
        if prune:
            restic(path, "prune", "--max-unused", "0")
        repository = Repository.open(LocalStore(path), PASSWORD, clock=FakeClock(NOW))
        newest = repository.snapshots()[-1]
        assert "complete" in newest.tags
        root = Golden("ours").expected["snapshots"][-1]["root"]
        files, problems = restored(repository, {"id": newest.id, "root": root}, tmp_path / str(number))
        assert problems == []
        assert "photo.jpg" not in files
        manifest = read_manifest(repository, records.fingerprint_of(repository, newest)["manifest"])
        try:
            verified = verify_tree(
                HOST, os.fsencode(tmp_path / str(number)), manifest, "www", path=root.encode()[len("www") :]
            )
        except DamageError:
            assert prune, "its trees are gone with the prune"
        else:
            assert "photo.jpg" in str(verified.differences)
