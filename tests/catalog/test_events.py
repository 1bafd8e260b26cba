from __future__ import annotations

from sqlalchemy import text

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.events import GENESIS, event_hash, verify_events
from backupctl.catalog.models import Event
from backupctl.clock import FakeClock
from tests.catalog.conftest import START


def filled(catalog: Catalog, clock: FakeClock) -> list[Event]:
    for number in range(4):
        clock.advance(0.25)
        catalog.append_event(
            "root", "hold.add", f"名 \udcff {number}", {"ratio": 0.1, "number": number, "deep": (1, None)}
        )
    return catalog.events()


def test_the_chain_is_whole_and_readable_in_pages(catalog: Catalog, clock: FakeClock) -> None:
    events = filled(catalog, clock)
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert events[0].previous == GENESIS and events[3].previous == events[2].hash
    assert events[0].subject == r"名 \udcff 0" and events[0].detail["deep"] == [1, None]
    assert verify_events(events) == []
    page = catalog.events(after=2, limit=1)
    assert [event.number for event in page] == [3]
    assert verify_events(page, previous=events[1].hash, number=2) == []


def test_the_format_of_the_hash_does_not_move() -> None:
    event = Event(
        number=1, time=START, actor="root", action="a", subject="s", detail={"b": 1, "a": "名"}, previous=GENESIS
    )
    assert event_hash(event) == "d31ea7ba1b9729544941887a3ea005d62bf1405f5c895e4f2e2bbf1c1ba91e37"


def test_every_kind_of_tampering_shows(catalog: Catalog, clock: FakeClock) -> None:
    filled(catalog, clock)

    def tamper(statement: str) -> list[str]:
        with catalog.writing() as session:
            session.execute(text(statement))
        return verify_events(catalog.events())

    faults = tamper("UPDATE events SET actor = 'nobody' WHERE number = 2")
    assert faults == [r"event 2 (hold.add 名 \udcff 1) was changed after it was written"]
    assert tamper("UPDATE events SET actor = 'root' WHERE number = 2") == []
    assert tamper("DELETE FROM events WHERE number = 3") == [
        "event 3 is missing: 4 comes next",
        "event 4 does not follow the one before it",
    ]


def test_each_stored_field_is_sealed(catalog: Catalog, clock: FakeClock) -> None:
    (event, *_) = filled(catalog, clock)
    for field, value in (
        ("number", 9),
        ("time", clock.now()),
        ("actor", "x"),
        ("action", "x"),
        ("subject", "x"),
        ("detail", {}),
        ("previous", "1" * 64),
    ):
        before = getattr(event, field)
        setattr(event, field, value)
        assert verify_events([event]) != [], field
        setattr(event, field, before)
    assert verify_events([event]) == []
