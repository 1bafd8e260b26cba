"""Binary logs of a real server, read event by event: where a target lies in them, and what is refused."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.hosts.protocol import Completed
from backupctl.sources.binlog_format import BinlogDamage, BinlogReader
from backupctl.sources.mariadb_binlog import Position, read_whole
from backupctl.sources.mariadb_client import refused
from backupctl.sources.mariadb_replay import Logs, end_of, stop_at, up_to
from tests.servers.databases import mariadb_server

pytestmark = pytest.mark.servers
HOUR = 3600


@pytest.fixture(scope="module")
def stored():
    """name → bytes of four logs; each holds one transaction of another hour, the third two. And position and GTID after each."""
    with mariadb_server("--log-bin=bin", "--server-id=7", "--gtid-domain-id=2") as server:
        marks = []
        server.sql("SET timestamp = 1790000000; CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        for number in range(1, 6):
            time = 1_790_000_000 + number * HOUR
            script = f"SET timestamp = {time}; INSERT INTO shop.t VALUES ({number}); SHOW MASTER STATUS; SELECT @@gtid_binlog_pos;"
            words = server.sql(script).split()
            marks.append((Position(words[0], int(words[1])), words[-1], datetime.fromtimestamp(time, UTC)))
            if number != 3:
                server.sql("FLUSH BINARY LOGS")
        data = server.directory / "data"
        content = {one.name: one.read_bytes() for one in sorted(data.glob("bin.0?????"))}
    return content, marks


def logs(content):
    return Logs(list(content), lambda name: io.BytesIO(content[name]))


def test_every_way_to_name_a_point_leads_to_the_same_position(stored):
    content, marks = stored
    start = marks[0][0]
    for position, gtid, time in marks[1:]:
        for target in (str(position), gtid, time, time + timedelta(minutes=59)):
            if target == time + timedelta(minutes=59) and position == marks[-1][0]:
                continue  # behind the last transaction: see below
            chain = stop_at(logs(content), start, end_of(target), proven=time + timedelta(hours=1))
            assert (chain.end, chain.last_commit) == (position, time), target
            assert chain.files[0] == start.file and chain.files[-1] == position.file
    assert stop_at(logs(content), start, None).end == marks[-1][0]
    assert stop_at(logs(content), start, start).end == start


def test_a_position_behind_the_last_transaction_is_reached_when_its_log_is_stored_up_to_there(stored):
    content, marks = stored
    start, (newest, _, time) = marks[0][0], marks[-1]
    *_, last = content
    assert last > newest.file, "the last log holds no transaction"
    there = Position(last, len(content[last]))
    chain = stop_at(logs(content), start, there)
    assert (chain.end, chain.last_commit, chain.files[-1]) == (newest, time, newest.file)
    with pytest.raises(NoSuchError, match="do not reach"):
        stop_at(logs(content), start, Position(last, len(content[last]) + 1))


def test_a_replay_that_stops_somewhere_is_not_broken_by_what_comes_later(stored):
    content, marks = stored
    start, (middle, _, time) = marks[0][0], marks[2]
    chain = up_to(logs(content), start, middle)
    assert (chain.end, chain.last_commit, chain.broken) == (middle, time, "")
    damaged = {**content, marks[-1][0].file: content[marks[-1][0].file][: marks[-1][0].offset - 5]}
    assert up_to(logs(damaged), start, middle).broken == ""
    assert up_to(logs(damaged), start, marks[-1][0]).broken
    assert up_to(logs(content), marks[-1][0], middle).end == marks[-1][0], "it goes nowhere when it is further already"


def test_times_are_utc_whatever_the_zone_of_the_process(stored, monkeypatch):
    content, marks = stored
    monkeypatch.setenv("TZ", "America/New_York")
    assert stop_at(logs(content), marks[0][0], marks[2][2]).end == marks[2][0]


def test_what_lies_outside_of_the_logs_is_refused(stored):
    content, marks = stored
    start, last = marks[2], marks[-1]
    for target in (str(marks[1][0]), marks[1][1], marks[1][2], marks[1][2] + timedelta(minutes=30)):
        with pytest.raises(UsageError, match="lies before the end of this backup"):
            stop_at(logs(content), start[0], end_of(target))
    for target in ("bin.000009:4", "2-7-99", last[2] + timedelta(hours=1)):
        with pytest.raises(NoSuchError, match="do not reach"):
            stop_at(logs(content), start[0], end_of(target))
    later = last[2] + timedelta(hours=1)
    assert stop_at(logs(content), start[0], later, proven=later).end == last[0], "nothing was committed in between"
    with pytest.raises(NoSuchError, match=r"no stored binary log bin\.000001"):
        stop_at(logs({name: data for name, data in content.items() if name != "bin.000001"}), marks[0][0], None)
    with pytest.raises(UsageError, match="neither a time"):
        end_of("yesterday")


def damage_of(stored, change):
    """What a recovery to the end says, and where one to the point before still leads."""
    content, marks = stored
    changed = dict(content)
    change(changed)
    with pytest.raises(DamageError) as caught:
        stop_at(logs(changed), marks[0][0], None)
    assert stop_at(logs(changed), marks[0][0], marks[0][0]).end == marks[0][0]
    return caught.value.message


def test_a_gap_is_refused(stored):
    assert "bin.000002 is missing before bin.000003" in damage_of(stored, lambda content: content.pop("bin.000002"))

    def other(content):
        content["bin.000002"] = content["bin.000001"].replace(b"bin.000002", b"bin.000003")

    assert "bin.000002 begins after nothing" in damage_of(stored, other)


def test_a_damaged_event_is_refused_and_what_is_before_it_is_reached(stored):
    content, marks = stored

    def flip(changed):
        data = bytearray(changed["bin.000003"])
        data[marks[3][0].offset - 10] ^= 1
        changed["bin.000003"] = bytes(data)

    message = damage_of(stored, flip)
    assert "bin.000003 is damaged at position" in message
    assert f"recovery can go to {marks[2][0]}" in message
    changed = dict(content)
    flip(changed)
    assert stop_at(logs(changed), marks[0][0], marks[2][0]).end == marks[2][0]
    with pytest.raises(DamageError):  # there may have been more in that second
        stop_at(logs(changed), marks[0][0], marks[2][2])


@pytest.mark.parametrize("cut", [1, 3, 20, 200, -1, -40])
def test_a_log_that_is_cut_anywhere_is_damaged(stored, cut):
    content, _ = stored
    with pytest.raises(BinlogDamage, match=r"ends in the middle|does not begin"):
        read_whole(io.BytesIO(content["bin.000001"][:cut]), BinlogReader())


def test_pieces_of_any_size_give_the_same(stored):
    content, _ = stored
    data = content["bin.000003"]
    whole = read_whole(io.BytesIO(data), BinlogReader())
    reader = BinlogReader()
    for at in range(0, len(data), 7):
        reader.feed(data[at : at + 7])
    assert reader.finish() == whole
    assert (whole.groups, whole.next_name, whole.start_gtids, whole.end_gtids) == (2, "bin.000004", {"2": 4}, {"2": 6})


def test_the_live_flag_of_the_newest_log_is_no_damage(stored):
    content, _ = stored
    newest = bytearray(content[max(content)])
    newest[21] |= 1
    read_whole(io.BytesIO(bytes(newest)), BinlogReader())


def test_a_refused_statement_is_not_repeated_in_the_message():
    error = "ERROR 1146 (42S02) at line 7: Table 'shop.people' doesn't exist"
    statement = "--------------\nINSERT INTO people VALUES ('her number')\n--------------"
    assert refused(Completed((), 1, b"", f"{statement}\n\n{error}\n")) == error
    assert refused(Completed((), 127, b"", "sh: no mariadb")) == "exit status 127: sh: no mariadb"
