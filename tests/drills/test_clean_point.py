"""Signals of an attack, told from what two backups held."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import pytest

from backupctl.drills.clean_point import Held, last_clean, looks_random, signals
from backupctl.repository.manifest import ManifestEntry
from backupctl.repository.reader import SnapshotReader

TEXT = b"the budget of the school by the bridge, number 17 of 40 in the record. " * 100


@pytest.mark.parametrize("size", [256, 300, 512, 700, 1024, 2000, 4095, 4096])
def test_random_blocks_of_every_size_are_told_from_text(size: int) -> None:
    chance = random.Random(size)
    assert all(looks_random(chance.randbytes(size)) for _ in range(50))
    assert not looks_random(TEXT[:size])


def test_what_is_too_short_says_nothing() -> None:
    assert not looks_random(random.Random(1).randbytes(255))


def held(
    files: Mapping[str, str], tables: Mapping[str, int] | None = None, shares: Mapping[str, float] | None = None
) -> Held:
    """Files by path and a word for their content, tables with their number of rows, shares of random blocks."""
    entries = {path.encode(): ManifestEntry(path.encode(), "file", sha256=word) for path, word in files.items()}
    rows = {name: (count, f"{name} {count}") for name, count in (tables or {}).items()}
    random_share = {path.encode(): (shares or {}).get(path, 0.0) for path in files}
    return Held(cast(SnapshotReader, None), entries, rows, random_share)


FILES = {f"www/{n}.txt": "a" for n in range(20)}


def changed(number: int, word: str = "b") -> dict[str, str]:
    return {path: word if n < number else old for n, (path, old) in enumerate(FILES.items())}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (held({f"{path}.locked" if n < 6 else path: "a" for n, path in enumerate(FILES)}), "got a new suffix"),
        (held(dict(list(FILES.items())[:13])), "7 of 20 files are gone"),
        (held(changed(3), shares=dict.fromkeys(FILES, 0.13)), "3 files turned random"),
        (held({**FILES, "www/HOW_TO_DECRYPT.txt": "n"}), "a note that was not there before"),
        (held(FILES, {"db.people": 70}), "table db.people has 70 rows instead of 100"),
        (held(FILES, {"db.others": 100}), "table db.people is gone"),
    ],
)
def test_each_signal_is_seen_and_named(after: Held, said: str) -> None:
    found = signals(held(FILES, {"db.people": 100}), after, {}, {})
    assert any(said in one for one in found), found


@pytest.mark.parametrize(
    "after",
    [
        held(changed(20), {"db.people": 99}),  # everything edited, no block random
        held(
            {**changed(1), "www/new.txt": "n"}, {"db.people": 140}, {"www/0.txt": 1.0}
        ),  # one file compressed in place
        held(dict(list(FILES.items())[:16]), {"db.people": 100}),  # four files deleted
    ],
)
def test_honest_work_is_no_signal(after: Held) -> None:
    assert signals(held(FILES, {"db.people": 100}), after, {}, {}) == []


def test_a_canary_decides_alone() -> None:
    canaries = {b"www/0.txt": "a"}
    assert signals(held(FILES), held(changed(1)), canaries, {}) == ["canary www/0.txt is changed"]
    assert signals(held(FILES), held(dict(list(FILES.items())[1:])), canaries, {}) == ["canary www/0.txt is missing"]
    tables: dict[str, Any] = {"db.canary": "db.canary 1"}
    assert signals(held({}), held({}, {"db.canary": 1}), {}, tables) == []
    assert signals(held({}), held({}, {"db.canary": 2}), {}, tables) == ["canary table db.canary is changed or missing"]


def test_what_follows_the_first_signal_is_never_chosen() -> None:
    poisoned = held(changed(3), shares=dict.fromkeys(FILES, 0.13))
    later = held(changed(3), shares=dict.fromkeys(FILES, 0.13))  # unchanged since, and still poisoned
    number, said = last_clean([held(FILES), held(FILES), poisoned, later], {}, {})
    assert number == 1
    assert said
    assert last_clean([held(FILES), held(FILES)], {}, {}) == (1, [])
