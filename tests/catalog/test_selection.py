"""The rotation and the draw, as pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backupctl.catalog.selection import choose, commitment_of, draw, open_round, population, seed_of, snapshot_of_age

NOW = datetime(2026, 11, 20, tzinfo=UTC)
POINTS = [(f"s{days}", NOW - timedelta(days=days)) for days in (90, 40, 8, 1)]


@pytest.mark.parametrize(
    ("age", "found"),
    [
        ("latest", "s1"),
        ("oldest", "s90"),
        (timedelta(days=7), "s8"),
        (timedelta(days=30), "s40"),
        (timedelta(days=91), None),
    ],
)
def test_an_age_is_the_newest_snapshot_that_is_at_least_so_old(age: timedelta | str, found: str | None) -> None:
    assert snapshot_of_age(POINTS, age, NOW) == found


def test_a_round_goes_over_everything_before_anything_comes_again() -> None:
    assert open_round([], ["a", "b", "c"]) == ["a", "b", "c"]
    assert open_round(["b"], ["a", "b", "c"]) == ["a", "c"]
    assert open_round(["b", "a", "c"], ["a", "b", "c"]) == ["a", "b", "c"]
    assert open_round(["b", "a", "c", "a"], ["a", "b", "c"]) == ["b", "c"]
    assert open_round(["gone", "a"], ["a", "b"]) == ["b"]
    assert open_round(["a", "b"], ["a", "b", "new"]) == ["new"]


def test_every_age_place_and_source_has_its_turn() -> None:
    ages = {"latest": "latest", "7d": timedelta(days=7), "oldest": "oldest"}
    points = {"main": POINTS, "vault": POINTS[1:]}
    sources = {name: ["db", "files"] for name, _ in POINTS}
    there = population(points, ages, sources, {}, NOW)
    history: list[dict[str, str]] = []
    for number in range(6):
        choice = choose(there, history, seed_of(b"secret %d" % number, "00" * 32))
        assert all(choice.chosen[key] in candidates for key, candidates in choice.candidates.items())
        history.append(dict(choice.chosen))
    assert sorted(one["age"] for one in history) == ["7d", "7d", "latest", "latest", "oldest", "oldest"]
    assert {one["age"] for one in history[:3]} == {"latest", "7d", "oldest"}
    assert [{one["place"] for one in history[n : n + 2]} for n in (0, 2, 4)] == [{"main", "vault"}] * 3
    assert [{one["source"] for one in history[n : n + 2]} for n in (0, 2, 4)] == [{"db", "files"}] * 3


def test_an_age_that_nothing_has_and_a_snapshot_of_nothing_are_left_out() -> None:
    points = {"main": POINTS[2:], "vault": []}
    there = population(
        points, {"30d": timedelta(days=30), "oldest": "oldest"}, {"s8": [], "s1": ["all"]}, {"x": "away"}, NOW
    )
    assert there.to_json() == {"ages": {"oldest": {"main": "s1"}}, "sources": {"s1": ["all"]}, "missing": {"x": "away"}}


def test_the_draw_follows_from_the_secret_and_the_event_that_committed_to_it_alone() -> None:
    """Vectors computed once with sha256sum: the formula stands in the documentation, and must not change."""
    secret = bytes(range(32))
    assert commitment_of(secret) == "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd"
    seed = seed_of(secret, "11" * 32)
    assert seed == seed_of(secret, "11" * 32) != seed_of(secret, "12" * 32)
    assert draw(seed, "age", ["7d", "latest", "oldest"]) == draw(seed, "age", ["oldest", "7d", "latest"])
    drawn = {draw(seed_of(bytes([n]) * 32, "11" * 32), "age", ["a", "b", "c", "d"]) for n in range(60)}
    assert drawn == {"a", "b", "c", "d"}
