"""What stock restic does with repositories of ours and we with its, each line tried by `test_matrix.py`.

python -m tests.interop.matrix > docs/reference/restic-interop.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backupctl.errors import UserError
from backupctl.repository.check import check as our_check
from backupctl.repository.copy import copy_snapshot
from backupctl.repository.format.polynomial import is_irreducible
from backupctl.repository.keys import add_key
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.golden.content import facts
from tests.golden.golden import Golden
from tests.interop.bench import CLOCK, ROOT, Bench
from tests.interop.stock import Restic

VERSIONS = ((0, 14), (0, 18), (0, 19))
"""The columns: Debian 12, 13 and unstable."""
Version = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One line. `since`: the first version that has it; `command`: what an earlier one refuses."""

    title: str
    act: Callable[[Bench], None]
    since: Version = (0, 14)
    command: str = ""


# stock restic on ours


def check(bench: Bench) -> None:
    bench.require_clean(bench.ours())


def restore(bench: Bench) -> None:
    ours = bench.ours()
    for number, (snapshot, state) in enumerate(zip(bench.ids(ours), bench.states, strict=True)):
        target = bench.empty()
        bench.restic(ours, "restore", snapshot, "--target", str(target))
        assert facts(target / ROOT) == state, number


def ls(bench: Bench) -> None:
    ours = bench.ours()
    listed = bench.lines(ours, "ls", bench.ids(ours)[1])
    nodes = {node["path"]: node for node in listed if node["struct_type"] == "node"}
    assert len(nodes) == len(bench.states[1]) + 1
    assert nodes[f"/{ROOT}/photo.jpg"]["size"] == 3000


def find(bench: Bench) -> None:
    ours = bench.ours()
    (found,) = bench.lines(ours, "find", "old.txt")
    assert [(one["snapshot"], one["matches"][0]["path"]) for one in found] == [
        (bench.ids(ours)[0], f"/{ROOT}/deep/old.txt")
    ]


def dump(bench: Bench) -> None:
    ours = bench.ours()
    said = bench.restic.ended(ours, "dump", bench.ids(ours)[1], f"/{ROOT}/deep/er/notes.txt")
    assert said.out == "another note\n"
    assert "index.html" in bench.restic.ended(ours, "dump", bench.ids(ours)[1], f"/{ROOT}").out, "as a tar"


def diff(bench: Bench) -> None:
    ours = bench.ours()
    lines = bench.restic(ours, "diff", *bench.ids(ours)).splitlines()
    told = {tuple(line.split()) for line in lines if line[:1] in "+-M" and len(line.split()) == 2}
    assert told == {
        ("+", f"/{ROOT}/deep/er/new.bin"),
        ("-", f"/{ROOT}/deep/old.txt"),
        ("M", f"/{ROOT}/deep/er/notes.txt"),
    }


def stats(bench: Bench) -> None:
    ours = bench.ours()
    (said,) = bench.lines(ours, "stats", bench.ids(ours)[1])
    files = {path: one for path, one in bench.states[1].items() if one["type"] == "file" and path != "hard link"}
    assert said["total_size"] == sum(one["size"] for one in files.values())
    (raw,) = bench.lines(ours, "stats", "--mode", "raw-data")
    assert raw["total_blob_count"] > 0


def tag(bench: Bench) -> None:
    ours = bench.ours()
    bench.restic(ours, "tag", "--add", "seen", bench.ids(ours)[1])
    bench.require_whole(ours)
    newest = bench.open(ours).snapshots()[1]
    assert newest.tags == ["backupctl", "seen"]
    assert newest.original


def forget_and_prune(*options: str) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        ours = bench.ours()
        bench.restic(ours, "forget", bench.ids(ours)[0])
        bench.restic(ours, "prune", *options)
        bench.require_whole(ours, bench.states[1:])
        bench.require_clean(ours)
        bench.back_up(ours)
        bench.require_whole(ours, [bench.states[1]] * 2)

    return act


def backup_on_top(bench: Bench) -> None:
    """Without --parent restic looks for one of the same host and paths: ours has them here, a job's snapshot not."""
    ours = bench.ours()
    for options in (("--parent", bench.ids(ours)[1]), ("--host", "job")):
        said = bench.restic.ended(ours, "backup", ROOT, "--json", *options, directory=bench.root).out.splitlines()
        summary = next(json.loads(line) for line in said if '"summary"' in line)
        assert (summary["files_new"], summary["files_changed"]) == (0, 0)
        assert summary["files_unmodified"] > 8
        assert summary["data_blobs"] == 0
    bench.require_whole(ours, [*bench.states, bench.states[1], bench.states[1]])
    bench.require_clean(ours)


def copy_out(bench: Bench) -> None:
    ours, into = bench.ours(), bench.empty()
    origin = ("--from-repo", str(ours), "--from-password-file", str(bench.restic.password_file))
    bench.restic(into, "init", "--copy-chunker-params", *origin)
    bench.restic(into, "copy", *origin)
    bench.require_whole(into)
    assert bench.open(into).config.chunker_polynomial == bench.open(ours).config.chunker_polynomial
    assert is_irreducible(bench.open(ours).config.chunker_polynomial)


def copy_in(bench: Bench) -> None:
    ours = bench.ours()
    bench.restic.copy(bench.theirs(), ours)
    repo = bench.open(ours)
    assert len(repo.snapshots()) == 4
    bench.require_whole(ours, sorted_states(bench, repo))
    bench.require_clean(ours)


def sorted_states(bench: Bench, repo: Repository) -> list[dict[str, object]]:
    """Both programs backed up each state before the next: the older half of the snapshots has the first."""
    half = len(repo.snapshots()) // 2
    return [bench.states[0]] * half + [bench.states[1]] * half


def rewrite_nothing(bench: Bench) -> None:
    """It decodes and encodes every tree, and would write what is not as it would write it."""
    assert "no snapshots were modified" in bench.restic(bench.ours(), "rewrite", "--exclude", "/nope")


def rewrite_exclude(bench: Bench) -> None:
    ours = bench.ours()
    bench.restic(ours, "rewrite", "--forget", "--exclude", "photo.jpg")
    bench.restic(ours, "prune", "--max-unused", "0")
    without = [{path: one for path, one in state.items() if path != "photo.jpg"} for state in bench.states]
    repo = bench.open(ours)
    assert len(repo.snapshots()) == 2
    for snapshot, state in zip(bench.ids(ours), without, strict=True):
        files, problems = bench.restored(ours, snapshot)
        assert problems == []
        assert files == state
    bench.require_clean(ours)


def golden(bench: Bench, name: str) -> tuple[Path, Restic]:
    """A damaged repository of ours, and restic with its password."""
    repository = Golden(name).extract(bench.empty())
    return repository, bench.restic.with_password("golden")


def reads_again(repository: Path, snapshots: int, problems: int = 0) -> Repository:
    repo = Repository.open(LocalStore(repository), "golden", clock=CLOCK)
    with repo.lock():
        found = our_check(repo, read_data=True).problems
    assert len(repo.snapshots()) == snapshots
    assert len(found) == problems, found
    return repo


def repair_index(bench: Bench) -> None:
    for name in ("index-missing", "bit-in-index", "zero-byte-index"):
        repository, restic = golden(bench, name)
        command = ("repair", "index") if restic.version >= (0, 16) else ("rebuild-index",)
        restic(repository, *command)
        reads_again(repository, 2)
        assert "no errors were found" in restic(repository, "check", "--read-data")


def repair_snapshots(bench: Bench) -> None:
    """What cannot be saved is left out, in a new snapshot that we read."""
    repository, restic = golden(bench, "data-pack-missing")
    restic(repository, "repair", "index")
    restic(repository, "repair", "snapshots", "--forget")
    repo = reads_again(repository, 2)
    repaired = repo.snapshots()[1]
    assert repaired.original == Golden("data-pack-missing").expected["snapshots"][1]["id"]
    with SnapshotReader(repo, repaired) as reader:
        assert {path for path, _ in reader.walk(b"d")} >= {b"d/a", b"d/b"}


def repair_packs(bench: Bench) -> None:
    """It takes out of a damaged pack what is good in it."""
    repository, restic = golden(bench, "bit-in-data-pack")
    damaged = Golden("bit-in-data-pack").expected["read_data"]["problems"][0]["name"].rpartition("/")[2]
    restic.ended(repository, "repair", "packs", damaged, directory=bench.restic.home)
    restic(repository, "repair", "snapshots", "--forget")
    reads_again(repository, 2)


def key_add(bench: Bench) -> None:
    ours = bench.ours()
    new = bench.root / "new-password"
    new.write_text("another one")
    bench.restic(ours, "key", "add", "--new-password-file", str(new))
    assert len(Repository.open(LocalStore(ours), "another one", clock=CLOCK).snapshots()) == 2


def obey_our_lock(bench: Bench) -> None:
    """Also in a repository of version 1, where everything is plain."""
    old = bench.empty()
    bench.restic(old, "init", "--repository-version", "1")
    for repository in (bench.ours(), old):
        with bench.open(repository).lock():
            refused = bench.restic.ended(repository, "prune", expect=(1, 11))
            assert "already locked" in refused.text
        bench.restic(repository, "prune")


# we on theirs


def read_theirs(bench: Bench) -> None:
    bench.require_whole(bench.theirs())


def back_up_on_top(bench: Bench) -> None:
    theirs = bench.theirs()
    bench.back_up(theirs)
    bench.require_whole(theirs, [*bench.states, bench.states[1]])
    bench.require_clean(theirs)
    target = bench.empty()
    bench.restic(theirs, "restore", bench.ids(theirs)[2], "--target", str(target))
    assert facts(target / ROOT) == bench.states[1]


def prune_theirs(bench: Bench) -> None:
    theirs = bench.theirs()
    repo = bench.open(theirs)
    repo.delete_snapshot(bench.ids(theirs)[0])
    bench.prune(theirs)
    bench.require_clean(theirs)
    bench.require_whole(theirs, bench.states[1:])
    bench.restic(theirs, "backup", "--host", "job", ROOT, directory=bench.root)
    bench.require_clean(theirs)


def copy_theirs(bench: Bench) -> None:
    ours = bench.ours()
    source, destination = bench.open(bench.theirs()), bench.open(ours)
    with source.lock(), destination.lock():
        for snapshot in source.snapshots():
            copy_snapshot(source, destination, snapshot)
    bench.require_whole(ours, sorted_states(bench, bench.open(ours)))
    bench.require_clean(ours)


def copy_into_theirs(bench: Bench) -> None:
    theirs = bench.theirs()
    source, destination = bench.open(bench.ours()), bench.open(theirs)
    with source.lock(), destination.lock():
        for snapshot in source.snapshots():
            copy_snapshot(source, destination, snapshot)
    bench.require_clean(theirs)
    bench.require_whole(theirs, sorted_states(bench, bench.open(theirs)))


def add_key_to_theirs(bench: Bench) -> None:
    theirs = bench.theirs()
    add_key(bench.open(theirs), "ours too", scrypt_n=2)
    assert "no errors were found" in bench.restic.with_password("ours too")(theirs, "check")


def version_1(bench: Bench) -> Path:
    old = bench.empty()
    bench.restic(old, "init", "--repository-version", "1")
    bench.restic(old, "backup", "--host", "job", ROOT, directory=bench.root)
    return old


def read_version_1(bench: Bench) -> None:
    old = version_1(bench)
    bench.require_whole(old, bench.states[1:])
    before = {path for path in old.rglob("*") if path.is_file()}
    try:
        bench.back_up(old)
    except UserError as refused:
        assert "version 1" in refused.message
    else:
        raise AssertionError("it wrote")
    assert {path for path in old.rglob("*") if path.is_file()} == before
    bench.require_clean(old)


def upgraded(bench: Bench) -> None:
    old = version_1(bench)
    bench.restic(old, "migrate", "upgrade_repo_v2")
    bench.back_up(old)
    bench.require_whole(old, [bench.states[1]] * 2)
    bench.prune(old)
    bench.require_whole(old, [bench.states[1]] * 2)
    bench.require_clean(old)


OURS = (
    Operation("`check --read-data`", check),
    Operation("`restore`", restore),
    Operation("`ls --json`", ls),
    Operation("`find`", find),
    Operation("`dump`, of a file and of a directory", dump),
    Operation("`diff`", diff),
    Operation("`stats`", stats),
    Operation("`tag`", tag),
    Operation("`key add`", key_add),
    Operation("`backup` on top of ours: no file is read again, nothing stored", backup_on_top),
    Operation("`copy` out of ours, `init --copy-chunker-params`", copy_out),
    Operation("`copy` into ours", copy_in),
    Operation("`forget`, `prune`", forget_and_prune()),
    Operation("`prune --max-unused 0`", forget_and_prune("--max-unused", "0")),
    Operation("`prune --repack-small`", forget_and_prune("--max-unused", "0", "--repack-small")),
    Operation("`prune --repack-cacheable-only`", forget_and_prune("--repack-cacheable-only")),
    Operation("`rewrite` finds every tree as it would write it", rewrite_nothing, (0, 15), "rewrite"),
    Operation("`rewrite --exclude`", rewrite_exclude, (0, 15), "rewrite"),
    Operation("`repair index` (0.14: `rebuild-index`)", repair_index),
    Operation("`repair snapshots`", repair_snapshots, (0, 16), "repair"),
    Operation("`repair packs`", repair_packs, (0, 16, 1), "repair"),
    Operation("`prune` waits for our lock", obey_our_lock),
)
THEIRS = (
    Operation("list, restore, `check --read-data`", read_theirs),
    Operation("back up on top of theirs", back_up_on_top),
    Operation("forget and prune", prune_theirs),
    Operation("copy out of theirs", copy_theirs),
    Operation("copy into theirs", copy_into_theirs),
    Operation("add a key", add_key_to_theirs),
    Operation("version 1: everything that reads; what writes is refused", read_version_1),
    Operation("version 1 after `migrate upgrade_repo_v2`: everything", upgraded),
)

NOTES = """\
Each line is tried with each version on a small site with names, links and modes of every kind; afterwards both programs read
every byte, and every snapshot restores exactly. A dash: that version does not have the command.
"""
AFTER = """\
- A snapshot of a job has the path `/<source>`, which is no path of the machine: `restic backup` takes it as a parent only when
  told to, `--parent ID`, and only for what has the same path in both.
- After `restic rewrite` or `restic repair snapshots` a snapshot has another id and still the tags of ours. The tag `tree:` names
  the tree that the run stored, so we see that this is another one: it restores, is listed as `rewritten`, and counts as
  complete for nobody.
- What each program says about damage: `tests/golden/repositories/*.json`, with the reason where they differ.
"""


def markdown() -> str:
    columns = [".".join(map(str, version)) for version in VERSIONS]
    lines = ["# With stock restic", "", "<!-- written by tests/interop/matrix.py -->", "", NOTES]
    for heading, operations in (("Stock restic on a repository of ours", OURS), ("We on one of stock restic", THEIRS)):
        lines += [f"## {heading}", "", f"| operation | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for one in operations:
            cells = ["yes" if version >= one.since[:2] else "—" for version in VERSIONS]
            lines.append(f"| {one.title} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, "## Know this", "", AFTER]).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
