"""Redis: an RDB over the wire under load, read along, loaded into a throw-away server and compared."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import CouldNotRunError, DamageError, NoSuchError, SourceError, UserError
from backupctl.hosts.secret import SecretRef
from backupctl.sources.rdb_format import BLOCK_BYTES, crc64, crc64_block
from backupctl.sources.rdb_program import class_of
from backupctl.sources.redis import RedisOptions, RedisSource
from backupctl.sources.redis_client import GRANT, rdb_reader
from tests.servers.redis import meddling, redis_server
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, bad, drain, processes_with, take
from tests.sources.restored import Restored

pytestmark = pytest.mark.servers
PASSWORD = """s3#cret it's "here" 密"""
ROUNDS = int(os.environ.get("BACKUPCTL_SOAK", "3"))
RDB = b"dump.rdb"
WORDS = "".join(f"{n:x}" for n in range(40_000))


def fill(server):
    """Every type in every encoding that the server has for it."""
    lines = ["FLUSHALL", "SET text hello", "SET number 12345", "SET negative -7", f"SET packed {'abc' * 200}"]
    lines += ['SET binary "\\x00\\xff\\r\\n"', "SET '' empty-name", 'SET "題目" 😀']
    for size in (1, 500):
        lines += [f"RPUSH list{size} 1 -5 70000 99999999999 {'a' * 63} {'b' * 5000}"]
        lines += [f"RPUSH list{size} entry{n}" for n in range(size)]
        lines += [f"SADD numbers{size} {n * 1000}" for n in range(size + 1)]
        lines += [f"SADD words{size} word{n}" for n in range(size)]
        lines += [f"HSET hash{size} field{n} {n * 7}" for n in range(size)]
        lines += [f"ZADD sorted{size} {n / 3} member{n}" for n in range(size)]
        lines += [f"ZADD sorted{size} inf top -inf bottom -0 zero"]
        lines += [f"XADD events{size} {n + 1}-0 k {n}" for n in range(size)]
    lines += [f"RPUSH huge {'x' * 70_000}", f"HSET wide field {'y' * 100}"]
    lines += ["XGROUP CREATE events500 readers 0", "XREADGROUP GROUP readers one COUNT 9 STREAMS events500 >"]
    lines += ["XACK events500 readers 3-0", "SELECT 3", "SET other 1", "SET later 1 EX 86400", "SELECT 0"]
    lines += [f"SET soon{n} value EX {100 + n * 50}" for n in range(200)]
    lines += ["FUNCTION LOAD REPLACE \"#!lua name=mine\\nredis.register_function('f', function() return 1 end)\""]
    said = server.commands(*lines)
    assert not [line for line in said if line.startswith(("ERR", "WRONG"))], said


@pytest.fixture
def cache(redis_server):
    fill(redis_server)
    yield redis_server
    redis_server.commands("FLUSHALL", "FUNCTION FLUSH")


def make(server, **options):
    return RedisSource("cache", RedisOptions(socket=server.socket, **options), lambda ref: Path(ref.file).read_bytes())


@pytest.fixture
def scratch():
    directory = Path(tempfile.mkdtemp(prefix="bctl-drill-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def typed(instance, *words, database="0"):
    argv = ["redis-cli", "-s", instance.connection["socket"], "-n", database, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert not done.stdout.startswith("ERR"), done.stdout
    return done.stdout


def test_round_trip_and_every_difference(cache, scratch):
    source = make(cache)
    files, fingerprint = take(source)
    assert files.names() == [RDB]
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["versions"]["product"] == "redis"
    assert fingerprint["rdb"]["checksum"] == "ok"
    assert fingerprint["rdb"]["bytes"] == len(files.content[RDB])
    assert fingerprint["replication"]["id"] == fingerprint["rdb"]["aux"]["repl-id"]
    assert fingerprint["replication"]["offset"] == int(fingerprint["rdb"]["aux"]["repl-offset"])
    assert fingerprint["settings"]["save"] == ""
    facts = fingerprint["databases"]["0"]
    assert facts["keys"] == int(cache.commands("DBSIZE")[0])
    assert facts["kinds"] == {"string": 207, "list": 3, "set": 4, "hash": 3, "zset": 2, "stream": 2}
    assert sum(count for count, _ in facts["expiring"].values()) == 200
    assert fingerprint["databases"]["3"]["lasting"][0] == 1
    assert fingerprint["functions"][0] == 1
    with Restored(source, files, fingerprint, scratch) as instance:
        results = source.compare(instance, fingerprint)
        assert not bad(results), results
        assert {result.name for result in results if result.level == 4} == {
            "keys of database 0",
            "expiring keys of database 0",
            "keys of database 3",
            "expiring keys of database 3",
            "function libraries",
        }
        assert source.query(instance, "3", "GET other") == [["1"]]
        assert source.query(instance, "0", "HGETALL hash1") == [["field0"], ["0"]]
        assert source.query(instance, "0", "GET absent") == []
        with pytest.raises(UserError, match="may write"):
            source.query(instance, "0", "DEL text")
        with pytest.raises(UserError, match="no such command"):
            source.query(instance, "0", "SELECTED")
        assert source.client_command(instance, "3")[-2:] == ["-n", "3"]
        for words, undo, name in (
            (["SET", "text", "hellO"], ["SET", "text", "hello"], "keys of database 0"),
            (["LSET", "list500", "2", "70001"], ["LSET", "list500", "2", "70000"], "keys of database 0"),
            (["SREM", "words500", "word7"], ["SADD", "words500", "word7"], "keys of database 0"),
            (["HSET", "hash500", "field7", "0"], ["HSET", "hash500", "field7", "49"], "keys of database 0"),
            (["ZADD", "sorted1", "1", "member0"], ["ZADD", "sorted1", "0", "member0"], "keys of database 0"),
            (["XACK", "events500", "readers", "4-0"], None, "keys of database 0"),
            (["PERSIST", "soon199"], None, "expiring keys of database 0"),
            (["FUNCTION", "FLUSH"], None, "function libraries"),
        ):
            typed(instance, *words)
            assert name in bad(source.compare(instance, fingerprint)), words
            if undo:
                typed(instance, *undo)
                assert not bad(source.compare(instance, fingerprint)), undo
        typed(instance, "DEL", "other", database="3")
        assert "keys of database 3" in bad(source.compare(instance, fingerprint))


def test_the_way_a_server_packs_collections_makes_no_difference(cache, scratch):
    """The same content in tables where it was in packed lists, and the other way round when it was loaded."""
    cache.commands("DEL events500")  # when its entries were delivered is part of what it holds
    _, packed = take(make(cache))
    for name in ("hash-max-listpack-entries", "zset-max-listpack-entries", "set-max-intset-entries"):
        cache.commands(f"CONFIG SET {name} 0")
    cache.commands("CONFIG SET list-max-listpack-size 1")
    try:
        fill(cache)
        cache.commands("DEL events500")
        assert cache.commands("OBJECT ENCODING hash1", "OBJECT ENCODING numbers1") == ["hashtable", "hashtable"]
        files, spread = take(make(cache))
        lasting = [facts["databases"]["0"]["lasting"] for facts in (packed, spread)]
        assert lasting[0] == lasting[1]
        with Restored(make(cache), files, spread, scratch) as instance:
            assert not bad(make(cache).compare(instance, spread))
    finally:
        cache.commands("CONFIG SET hash-max-listpack-entries 128", "CONFIG SET zset-max-listpack-entries 128")
        cache.commands("CONFIG SET set-max-intset-entries 512", "CONFIG SET list-max-listpack-size -2")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_one_moment_under_load(cache, scratch, number):
    source = make(cache)
    with cache.load():
        files, fingerprint = take(source)
    with Restored(source, files, fingerprint, scratch) as instance:
        assert not bad(source.compare(instance, fingerprint))
        assert source.query(instance, "0", "GET left") == source.query(instance, "0", "GET right") != []


def test_keys_that_have_expired_meanwhile_are_told_and_not_missed(cache, scratch):
    cache.commands("SELECT 5", "SET gone 1 PX 1500", "SET stays 1 EX 9999")
    files, fingerprint = take(make(cache))
    with Restored(make(cache), files, fingerprint, scratch) as instance:
        while int(typed(instance, "EXISTS", "gone", database="5")):
            pass
        results = make(cache).compare(instance, fingerprint)
    assert not bad(results)
    (told,) = [result for result in results if result.name == "not compared in database 5"]
    assert (told.level, told.actual[:6]) == (3, "1 keys")


def test_classes_of_time_to_live_are_in_order_and_narrow():
    lives = [0, 1, 2, 7, 8, 15, 16, 999, 1000, 86_400_000, 86_400_000 * 365]
    assert sorted(map(class_of, lives)) == [class_of(life) for life in lives]
    for life in (10_000, 86_400_000):
        assert class_of(life) < class_of(int(life * 1.13))
    assert class_of(-5) == 0


def test_chosen_databases_only(cache, scratch):
    files, fingerprint = take(make(cache))
    with pytest.raises(NoSuchError, match="no database 9"):
        Restored(make(cache), files, fingerprint, scratch, databases=["9"])
    shutil.rmtree(scratch / "server")
    with Restored(make(cache), files, fingerprint, scratch, databases=["3"]) as instance:
        results = make(cache).compare(instance, fingerprint)
        assert not bad(results)
        assert {result.name for result in results if "database 0" in result.name} == set()
        assert typed(instance, "DBSIZE").strip() == "0"


def test_an_empty_server_is_backed_up(redis_server, scratch):
    redis_server.commands("FLUSHALL", "FUNCTION FLUSH")
    files, fingerprint = take(make(redis_server))
    assert fingerprint["databases"] == {}
    with Restored(make(redis_server), files, fingerprint, scratch) as instance:
        assert make(redis_server).compare(instance, fingerprint) == []
        typed(instance, "SET", "appeared", "1")
        assert bad(make(redis_server).compare(instance, fingerprint)) == ["keys of database 0"]


def test_the_fast_checksum_is_the_plain_one():
    content = random.Random(4).randbytes(BLOCK_BYTES)
    assert crc64(b"123456789", 0) == 0xE9C6D914C4B8D9CA  # as crc64.c says of itself
    for start in (0, 0xE9C6D914C4B8D9CA):
        assert crc64_block(content, start) == crc64(content, start)


def test_a_large_server_is_summed_in_blocks(cache, scratch):
    cache.commands(*(f"SET large{n} {WORDS}{n}" for n in range(20)))
    files, fingerprint = take(make(cache))
    assert fingerprint["rdb"]["bytes"] > 2 * BLOCK_BYTES
    assert fingerprint["rdb"]["checksum"] == "ok"
    with Restored(make(cache), files, fingerprint, scratch) as instance:
        assert not bad(make(cache).compare(instance, fingerprint))


# what comes over the wire


def damaged(server, meddle, match):
    with meddling(server, meddle) as path:
        source = RedisSource("cache", RedisOptions(socket=path), bytes)
        with source.open(HOST, CLOCK) as session:
            (entry,) = session.entries()
            with pytest.raises(SourceError, match=match) as caught:
                drain(entry.open())
            assert (caught.value.source, "dump.rdb" in caught.value.item or "RDB of" in caught.value.item) == (
                "cache",
                True,
            )
            with pytest.raises(SourceError, match="not read to its end"):
                session.fingerprint()


@pytest.mark.parametrize("at", [0, 1, 9, 100, 2000, -41, -40, -1])
def test_a_connection_that_is_cut_at_any_byte(cache, at):
    damaged(cache, lambda rdb: [rdb[:at], None], "before the end marker")


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_byte(cache, at):
    def flip(rdb):
        place = int((len(rdb) - 48) * at)
        return [rdb[:place] + bytes([rdb[place] ^ 1]) + rdb[place + 1 :]]

    damaged(cache, flip, "RDB of .*(checksum|holds|ends|byte)")


def test_a_stream_that_ends_early_with_its_marker(cache):
    damaged(
        cache, lambda rdb: [rdb[:-140] + rdb[-40:]], "ends in the middle|checksum|cannot be read|bytes after its end"
    )


def test_a_flipped_checksum(cache):
    damaged(cache, lambda rdb: [rdb[:-48] + bytes(8)[:7] + b"\1" + rdb[-40:]], "does not match its checksum")


def test_a_marker_in_two_pieces_is_still_the_end(cache):
    with meddling(cache, lambda rdb: [rdb[:-20], rdb[-20:]]) as path:
        files, fingerprint = take(RedisSource("cache", RedisOptions(socket=path), bytes))
    assert fingerprint["rdb"]["bytes"] == len(files.content[RDB])


def test_a_server_that_ends_in_the_middle_and_an_early_close():
    with redis_server() as server:
        server.commands("CONFIG SET rdb-key-save-delay 50000", *(f"SET key{n} {WORDS}" for n in range(100)))
        with make(server).open(HOST, CLOCK) as session:
            for entry in session.entries():
                stream = entry.open()
                stream.read(1)
                server.commands("SHUTDOWN NOSAVE")
                with pytest.raises(SourceError, match="before the end marker"):
                    drain(stream)
    with redis_server() as server:
        server.commands("CONFIG SET rdb-key-save-delay 50000", *(f"SET key{n} {WORDS}" for n in range(100)))
        with make(server).open(HOST, CLOCK) as session:
            for entry in session.entries():
                entry.open().close()
                break
        assert not processes_with("Speaks to a Redis")


def test_the_size_of_a_disk_backed_transfer_is_kept(cache):
    """Servers that write the RDB to their disk first announce its size instead of a marker."""
    cache.commands("CONFIG SET repl-diskless-sync no")
    try:
        files, fingerprint = take(make(cache))
    finally:
        cache.commands("CONFIG SET repl-diskless-sync yes")
    assert fingerprint["rdb"]["bytes"] == len(files.content[RDB])


# logging in


def test_password_never_shows_and_a_wrong_one_is_said(cache, tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    quoted = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    rights = GRANT.partition("PASSPHRASE ")[2]
    assert cache.commands(f'ACL SETUSER backup on ">{quoted}" {rights}') == ["OK"]
    options = {"address": "127.0.0.1", "port": cache.port, "user": "backup"}
    options["password"] = SecretRef(file=str(tmp_path / "password"))
    source = RedisSource("cache", RedisOptions(**options), lambda ref: Path(ref.file).read_bytes())
    # far more than the header's reader and a pipe hold: whoever sends it is there until somebody reads
    cache.commands("CONFIG SET rdbcompression no", *(f"SET long{n} {WORDS}" for n in range(50)))
    with source.open(HOST, CLOCK) as session:
        for entry in session.entries():
            assert processes_with("Speaks to a Redis")
            assert not processes_with("s3#cret")
            drain(entry.open())
        assert "s3#cret" not in json.dumps(session.fingerprint())
    cache.commands("CONFIG SET rdbcompression yes")
    assert not [finding for finding in source.preflight(HOST) if finding.severity == "error"]
    assert not [finding for finding in source.preflight(HOST) if "not tried" in finding.message]
    (tmp_path / "password").write_text("wrong" + PASSWORD)
    with pytest.raises(SourceError, match="WRONGPASS") as caught, source.open(HOST, CLOCK) as session:
        list(session.entries())
    assert "s3#cret" not in str(caught.value)
    assert "password" in caught.value.next_step
    assert "WRONGPASS" in source.preflight(HOST)[0].message


def test_missing_rights_are_named(cache, tmp_path):
    (tmp_path / "password").write_text("poor")
    cache.commands("ACL SETUSER poor on >poor +ping +info +acl|whoami +acl|dryrun")
    options = {"socket": cache.socket, "user": "poor", "password": SecretRef(file=str(tmp_path / "password"))}
    source = RedisSource("cache", RedisOptions(**options), lambda ref: Path(ref.file).read_bytes())
    findings = source.preflight(HOST)
    (error,) = [finding for finding in findings if finding.severity == "error"]
    assert "psync" in error.message and error.next_step == GRANT
    assert any("CONFIG GET is refused" in finding.message for finding in findings)
    with pytest.raises(SourceError, match="NOPERM") as caught, source.open(HOST, CLOCK) as session:
        list(session.entries())
    assert caught.value.next_step == GRANT
    cache.commands("ACL SETUSER poor +replconf")
    with pytest.raises(SourceError, match="psync"), source.open(HOST, CLOCK) as session:
        list(session.entries())


def test_no_server_there(tmp_path):
    source = RedisSource("cache", RedisOptions(socket=str(tmp_path / "no")), bytes)
    with pytest.raises(SourceError, match="No such file") as caught, source.open(HOST, CLOCK) as session:
        list(session.entries())
    assert "see that the server runs" in caught.value.next_step
    assert source.preflight(HOST)[0].severity == "error"


def test_what_preflight_warns_of():
    with redis_server("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru", "--rdbchecksum", "no") as server:
        server.commands(*(f"SET key{n} {'x' * 1000}" for n in range(3000)))
        messages = "\n".join(finding.message for finding in make(server).preflight(HOST))
        for words in ("persistence is off", "rdbchecksum is off", "allkeys-lru", "of maxmemory are in use"):
            assert words in messages, messages
        _, fingerprint = take(make(server))
        assert fingerprint["rdb"]["checksum"] == "off"
        server.commands("REPLICAOF 127.0.0.1 1")
        messages = {finding.severity: finding.message for finding in make(server).preflight(HOST)}
        assert "without a link to its master" in messages["error"]
        with pytest.raises(SourceError, match="NOMASTERLINK"), make(server).open(HOST, CLOCK) as session:
            list(session.entries())


def test_a_replica_is_backed_up(cache, scratch):
    with redis_server() as replica:
        replica.commands(f"REPLICAOF 127.0.0.1 {cache.port}")
        replica.commands("WAIT 0 0")
        while "master_link_status:up" not in replica.commands("INFO replication"):
            pass
        files, fingerprint = take(make(replica))
        assert any("it is a replica; its master" in finding.message for finding in make(replica).preflight(HOST))
    assert fingerprint["server"]["role"] == "slave"
    with Restored(make(cache), files, fingerprint, scratch) as instance:
        assert not bad(make(cache).compare(instance, fingerprint))
        assert "role:master" in typed(instance, "INFO", "replication")


# restoring


def test_damaged_files_are_damage(cache, scratch):
    files, fingerprint = take(make(cache))
    whole = files.content[RDB]
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
    for content in (whole[:middle], flipped, b"", b"REDIS0010", b"not an rdb at all" * 10, whole[:-1] + b"?"):
        with pytest.raises(DamageError, match=r"dump\.rdb") as caught:
            Restored(make(cache), MemoryFiles({RDB: content}), fingerprint, scratch)
        assert caught.value.name == "dump.rdb"
        shutil.rmtree(scratch / "server")
    with pytest.raises(DamageError, match=r"holds no dump\.rdb"):
        Restored(make(cache), MemoryFiles({b"x": b""}), fingerprint, scratch)


def test_what_staging_lacks_is_no_damage(cache, scratch):
    files, fingerprint = take(make(cache))
    newer = {**fingerprint, "versions": {**fingerprint["versions"], "server": "99.1.0"}}
    with pytest.raises(CouldNotRunError, match=r"was Redis 99\.1\.0") as caught:
        make(cache).boot(HOST, str(scratch / "server").encode(), newer)
    assert "redis-server 99.1.0" in caught.value.next_step
    valkey = {**fingerprint, "versions": {"product": "valkey", "server": "8.0.1"}}
    with pytest.raises(CouldNotRunError, match="has no valkey server"):
        make(cache).boot(HOST, str(scratch / "server").encode(), valkey)
    with pytest.raises(CouldNotRunError, match="bytes of memory"):
        make(cache).boot(HOST, str(scratch / "server").encode(), {**fingerprint, "used_memory_bytes": 1 << 60})
    (scratch / "bin").mkdir()
    real = shutil.which("redis-server")
    program = scratch / "bin" / "redis-server"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\necho it will not start\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(CouldNotRunError, match="it will not start"):
        make(cache, bin_dir=str(scratch / "bin")).boot(HOST, str(scratch / "server").encode(), fingerprint)
    shutil.rmtree(scratch / "server")
    future = bytearray(files.content[RDB])
    future[5:9] = b"0099"
    with pytest.raises(CouldNotRunError, match="Can't handle RDB format version 99"):
        Restored(make(cache), MemoryFiles({RDB: bytes(future)}), fingerprint, scratch)


def test_instance_is_private(cache, scratch):
    _, fingerprint = take(make(cache))
    instance = make(cache).boot(HOST, str(scratch / "server").encode(), fingerprint)
    try:
        assert os.geteuid() != 0 or Path(f"/proc/{instance.pid}").stat().st_uid != 0
        assert typed(instance, "CONFIG", "GET", "port").split() == ["port", "0"]
        assert typed(instance, "CONFIG", "GET", "appendonly").split() == ["appendonly", "no"]
        tables = [Path(f"/proc/{instance.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        inodes = {os.readlink(link)[8:-1] for link in Path(f"/proc/{instance.pid}/fd").iterdir() if link.is_symlink()}
        assert not [line for table in tables for line in table.splitlines()[1:] if line.split()[9] in inodes]
    finally:
        make(cache).stop(instance)
    assert not processes_with(instance.connection["sockets"])


def test_source_and_staging_behind_ssh(cache, scratch, ssh_host):
    source = make(cache)
    with source.open(ssh_host, CLOCK) as session:
        files = MemoryFiles({entry.path: drain(entry.open()) for entry in session.entries()})
        fingerprint = session.fingerprint()
    assert not [finding for finding in source.preflight(ssh_host) if finding.severity == "error"]
    with Restored(source, files, fingerprint, scratch, host=ssh_host) as instance:
        results = source.compare(instance, fingerprint)
        assert not bad(results)
        assert [result for result in results if result.level == 4]


# the reader of RDB files


def read(content, tmp_path):
    path = tmp_path / "file.rdb"
    path.write_bytes(content)
    done = HOST.run(rdb_reader(HOST, "-", str(path)))
    return done.returncode, json.loads(done.stdout)


def test_the_reader_agrees_with_the_servers_own_checker(cache, tmp_path):
    files, fingerprint = take(make(cache))
    (tmp_path / "dump.rdb").write_bytes(files.content[RDB])
    said = HOST.run(["redis-check-rdb", str(tmp_path / "dump.rdb")], check=True).stdout.decode()
    keys = sum(one["keys"] for one in fingerprint["databases"].values())
    assert f"{keys} keys read" in said
    assert "201 expires" in said


def test_what_it_does_not_know_is_no_damage_and_nothing_is_claimed(tmp_path, cache):
    rdb = b"REDIS0099\xfe\x00" + bytes([29]) + b"\x01k" + b"whatever" + b"\xff" + bytes(8)
    code, found = read(rdb, tmp_path)
    assert (code, found["unknown"], found["checksum"]) == (0, "a key of the type 29", "off")
    _, fingerprint = take(make(cache))
    fingerprint["rdb"]["unknown"] = found["unknown"]
    (result,) = make(cache).compare(None, fingerprint)
    assert (result.level, result.ok) == (3, True)
    assert "not compared" in result.actual


def test_modules_and_expiring_fields_are_counted_by_name(tmp_path):
    """As Redis 7.4 and modules write them; checked against the layout in rdb.c, not against such a server."""
    module = b"\x07\x01m\x81" + b"\1" * 8 + b"\x02\x05" + b"\x05\x03abc" + b"\x04" + bytes(8) + b"\x00"
    fields = b"\x18\x01h" + bytes(8) + b"\x02" + b"\x00\x01a\x01b" + b"\x09\x01c\x01d"
    rdb = b"REDIS0012\xfe\x00" + module + fields + b"\x00\x01k\x01v\xff" + bytes(8)
    code, found = read(rdb, tmp_path)
    assert (code, found["unknown"]) == (0, "")
    facts = found["databases"]["0"]
    assert (facts["keys"], facts["values_not_compared"]) == (3, 2)
    assert facts["kinds"] == {"module": 1, "hash": 1, "string": 1}


@pytest.mark.parametrize(
    "options",
    [{"socket": "/s", "port": 1}, {"user": "u"}, {"password": "plain"}, {"port": 0}, {"databases": [1]}],
)
def test_options_refused(options):
    with pytest.raises(ValidationError):
        RedisOptions(**options)


def test_what_a_staging_host_needs(cache):
    needs = make(cache).staging_needs(HOST, HOST)
    assert needs.bytes > 100_000 and needs.findings == []
    (finding,) = make(cache, bin_dir="/nowhere").staging_needs(HOST, HOST).findings
    assert (finding.severity, "has no redis server" in finding.message) == ("error", True)
    assert "redis-server" in finding.next_step
