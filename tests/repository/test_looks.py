from __future__ import annotations

import bz2
import gzip
import random

import pytest

from backupctl.repository.changes import changes, is_ransom_note
from backupctl.repository.looks import BLOCK_BYTES, EVERY, Look, Looks, extension, looks_random
from tests.repository.helpers import backup, directory, file, new_repository

RNG = random.Random(7)
TEXT = b" ".join(
    RNG.choice((b"the", b"page", b"of", b"office", b"order")) + b"%d" % RNG.randrange(99) for _ in range(40_000)
)
RANDOM = RNG.randbytes(1 << 20)


def share(data: bytes) -> float:
    blocks = [data[start : start + BLOCK_BYTES] for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES)]
    return sum(map(looks_random, blocks)) / len(blocks)


def test_blocks_that_look_random_are_those_of_compressed_and_encrypted_data() -> None:
    import base64

    assert share(RANDOM) == 1
    assert share(gzip.compress(TEXT)) > 0.9 and share(bz2.compress(TEXT)) > 0.8
    assert share(TEXT) == 0 and share(base64.b64encode(RANDOM)) == 0 and share(bytes(1 << 16)) == 0
    assert not looks_random(RANDOM[: BLOCK_BYTES - 1])


@pytest.mark.parametrize("every", [2, 8, 16])
def test_encryption_that_skips_blocks_shows_in_the_sample(every: int) -> None:
    blocks = [TEXT[start : start + BLOCK_BYTES] for start in range(0, 200_000, BLOCK_BYTES)]
    mixed = b"".join(RANDOM[:BLOCK_BYTES] if number % every == 0 else one for number, one in enumerate(blocks))
    looks = [Look() for _ in range(EVERY)]
    for seed, look in enumerate(looks):
        look.add(mixed, seed)
    found = sum(look.random for look in looks) / sum(look.blocks for look in looks)
    assert found == pytest.approx(1 / every, abs=0.03)


def test_of_small_chunks_too_a_sixteenth_of_the_blocks_is_tried() -> None:
    look = Look()
    for seed in range(1600):
        look.add(RANDOM[: 2 * BLOCK_BYTES], seed % 256)
    assert look.blocks == look.random == 1600 * 2 // EVERY
    alone = Look()
    alone.add(RANDOM[: 2 * BLOCK_BYTES], 7)
    assert alone.blocks == 1


def test_a_look_needs_a_whole_block_and_knows_types_by_their_beginning() -> None:
    found = Looks()
    for name, data in ((b"a.txt", b"short"), (b"b.JPG", b"\xff\xd8\xff" + RANDOM), (b"c.jpg", RANDOM), (b"d.jpg", b"")):
        look = Look()
        if data:
            look.add(data, 3)
        found.count(name, look, before=True)
    assert found.new == {} and set(found.rewritten) == {b"jpg"}
    files, blocks, hits, files_hit, typed, mistyped = found.rewritten[b"jpg"]
    assert (files, files_hit, typed, mistyped) == (2, 2, 2, 1) and hits == blocks == 2 * 256 // EVERY


def test_extensions_are_bounded() -> None:
    assert [extension(name) for name in (b"a.TXT", b".profile", b"x", b"a.b.verylongextension")] == [
        b"txt",
        b"",
        b"",
        b"verylongexte",
    ]
    found = Looks()
    look = Look()
    look.add(RANDOM[:BLOCK_BYTES], 0)
    for number in range(1000):
        found.count(b"f.%d" % number, look, before=False)
    assert len(found.new) == 401 and found.new[b"*"][0] == 600


def test_ransom_notes_by_name() -> None:
    notes = [
        b"HOW_TO_DECRYPT.txt",
        b"!!!RESTORE-MY-FILES!!!.html",
        b"README_TO_UNLOCK.hta",
        b"help_recover_instructions.txt",
    ]
    assert all(map(is_ransom_note, notes))
    assert not any(
        map(is_ransom_note, (b"README.txt", b"readme.html", b"recovery.md", b"backup-help.txt", b"decrypt.py"))
    )


def test_the_writer_looks_at_what_it_reads_and_two_trees_say_what_became_of_the_files() -> None:
    repo = new_repository()
    before = [directory(b"d"), *(file(b"d/%02d.txt" % number, TEXT[number : number + 9000]) for number in range(10))]
    before += [file(b"moved.bin", RANDOM[:5000]), file(b"removed.bin", b"r")]
    writer, first, parent = backup(repo, {"www": before})
    assert writer.looks["www"].new[b"txt"][:4] == [10, 10, 0, 0] and writer.looks["www"].rewritten == {}
    after = [directory(b"d")]
    for number in range(10):
        name, data = b"d/%02d.txt" % number, TEXT[number : number + 9000]
        if number < 3:
            after.append(file(name, RANDOM[number : number + 9000], mtime_ns=5, ctime_ns=5))
        elif number < 5:
            after.append(file(name + b".locked", RANDOM[number : number + 9000]))
        else:  # one is read again, and is what it was
            after.append(file(name, data, mtime_ns=5, ctime_ns=5) if number == 5 else file(name, data))
    after += [file(b"elsewhere.bin", RANDOM[:5000]), file(b"new.bin", b"n")]
    writer, second, _ = backup(repo, {"www": after}, parent=parent)
    assert writer.looks["www"].rewritten == {b"txt": [3, 3, 3, 3, 0, 0]}
    assert writer.looks["www"].new[b"locked"][:4] == [2, 2, 2, 2]
    assert written_files(second) == 12

    found = changes(lambda tree: repo.load_blob("tree", tree), first.tree, second.tree)
    assert (found.rewritten, found.deleted, found.moved, found.new) == (3, 3, 1, 3)
    assert found.suffixed == {b"locked": 2} and found.unread == 0
    everything = changes(lambda tree: repo.load_blob("tree", tree), None, second.tree)
    assert (everything.new, everything.deleted) == (12, 0)
    assert changes(lambda tree: repo.load_blob("tree", tree), second.tree, second.tree).new == 0


def written_files(written: object) -> int:
    return written.sources["www"].files  # type: ignore[attr-defined]  # a WrittenSnapshot


def test_a_tree_that_cannot_be_read_is_counted_not_taken_for_deleted() -> None:
    repo = new_repository()
    _, first, _ = backup(repo, {"www": [file(b"a", b"1")]})

    def broken(tree: bytes) -> bytes:
        from backupctl.errors import DamageError

        if tree == first.tree:
            raise DamageError("gone", name="x")
        return repo.load_blob("tree", tree)

    _, second, _ = backup(repo, {"www": [file(b"b", b"1")]})
    found = changes(broken, first.tree, second.tree)
    assert (found.unread, found.deleted, found.new) == (1, 0, 0)
