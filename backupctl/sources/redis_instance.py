"""A throw-away Redis or Valkey server: boot it empty on a private socket, load an RDB, compare what it then holds."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backupctl.errors import CouldNotRunError, DamageError, SourceError, UserError
from backupctl.hosts.protocol import Host
from backupctl.hosts.unprivileged import unprivileged
from backupctl.sources import rdb_program, throwaway
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance, SnapshotFiles
from backupctl.sources.redis_client import RDB_NAME, RedisClient, find_server, number, rdb_reader, readable_words
from backupctl.sources.streams import choose_databases, chosen_databases, said

COPY_BYTES = 1 << 20
DEBUG_IS_LOCKED = (7, 0)  # since then `DEBUG` has to be allowed at the start
HOST_LACKS = re.compile(r"module data I can't load|Can't handle RDB format|Out Of Memory|No space left")
OPTIONS = (
    ("port", "0"),  # no network at all, not even loopback
    ("save", ""),
    ("appendonly", "no"),  # with `yes` an RDB is ignored, and the server is up and empty
    ("maxmemory", "0"),
    ("unixsocketperm", "700"),
    ("daemonize", "no"),
    ("rdbchecksum", "yes"),
)


def boot(name: str, host: Host, directory: bytes, fingerprint: Fingerprint, bin_dir: str | None) -> Instance:
    versions = fingerprint["versions"]
    program, version = server_program(name, host, bin_dir, versions["product"], versions["server"])
    refuse_too_little_memory(name, host, fingerprint)
    identity, sockets = throwaway.prepare(host, directory, "redis")
    root = directory.decode()
    socket, log = f"{sockets}/s", f"{root}/server.log"
    instance = Instance("redis", host, directory, version)
    instance.connection = {
        "sockets": sockets,
        "socket": socket,
        "log": log,
        "client": f"{fingerprint['versions']['product']}-cli",
    }
    numbers = [int(number) for number in fingerprint["databases"]]
    databases = max([*numbers, int(fingerprint["settings"].get("databases", 16)) - 1]) + 1
    options = [*OPTIONS, ("unixsocket", socket), ("dir", f"{root}/data"), ("databases", str(databases))]
    if number(version) >= DEBUG_IS_LOCKED:
        options.append(("enable-debug-command", "local"))
    try:
        host.make_directory(f"{root}/data".encode())
        identity.give(f"{root}/data".encode())
        argv = [program, *(part for key, value in options for part in (f"--{key}", value))]
        throwaway.start(instance, identity.command(argv), log)
        throwaway.wait_until_ready(instance, lambda: is_ready(instance, name), log)
    except BaseException:
        stop(instance)
        raise
    return instance


def server_program(name: str, host: Host, bin_dir: str | None, product: str, wanted: str) -> tuple[str, str]:
    """(program, version) of a server that can load an RDB of version `wanted`."""
    found = find_server(host, bin_dir, product)
    if found is None or number(found[1]) < number(wanted):
        there = f"has {product} server {found[1]}" if found else f"has no {product} server"
        raise CouldNotRunError(
            f"source {name} was {product.title()} {wanted}; host {host.name} {there}",
            next_step=f"install {product}-server {wanted} or newer on host {host.name}, or set `bin_dir`",
        )
    return found


def refuse_too_little_memory(name: str, host: Host, fingerprint: Fingerprint) -> None:
    """A staging host that swaps or kills processes for a drill is worse than one that says no."""
    found = re.search(rb"MemAvailable:\s+(\d+) kB", host.run(["cat", "/proc/meminfo"]).stdout)
    needed = fingerprint["used_memory_bytes"]
    if found and int(found.group(1)) * 1024 < needed:
        raise CouldNotRunError(
            f"source {name} used {needed} bytes of memory; host {host.name} has {int(found.group(1)) * 1024} to give",
            next_step=f"free memory on host {host.name}, or take a larger one",
        )


def client_of(instance: Instance, name: str) -> RedisClient:
    return RedisClient(instance.host, name, {"socket": instance.connection["socket"]})


def is_ready(instance: Instance, name: str) -> bool:
    try:
        client_of(instance, name).command("PING")
    except SourceError:
        return False
    return True


def stop(instance: Instance) -> None:
    throwaway.stop(instance, signal.SIGTERM)


def client_command(instance: Instance, database: str) -> list[str]:
    return [instance.connection["client"], "-s", instance.connection["socket"], "-n", database or "0"]


def load(name: str, instance: Instance, files: SnapshotFiles, databases: Sequence[str] | None) -> list[str]:
    """Places the RDB and has the server read it. All of it is loaded; databases that are not wanted are emptied then."""
    host = instance.host
    data = instance.directory + b"/data"
    size = place(files, host, data + b"/" + RDB_NAME)
    unprivileged(host, ["redis"]).give(data)
    client = client_of(instance, name)
    try:
        client.command("DEBUG", "RELOAD", "NOSAVE")
    except SourceError as error:
        raise refusal(instance, error) from error
    there = keyspace(client)
    wanted = choose_databases(instance, databases, there, name)
    for other in sorted(set(there) - set(wanted)):
        client.command("FLUSHDB", database=other)
    host.remove_tree(data + b"/" + RDB_NAME)
    counts = ", ".join(f"db{one} {there[one]} keys" for one in wanted)
    return [f"RDB of {size} bytes loaded: {counts or 'no key'}"]


def place(files: SnapshotFiles, host: Host, path: bytes) -> int:
    if RDB_NAME not in files.names():
        raise DamageError("the snapshot holds no dump.rdb for this source", name=RDB_NAME.decode())
    source, sink, size = files.open(RDB_NAME), host.open_write(path), 0
    try:
        while data := source.read(COPY_BYTES):
            sink.write(data)
            size += len(data)
    finally:
        source.close()
        sink.close()
    return size


def refusal(instance: Instance, error: SourceError) -> CouldNotRunError | DamageError:
    """Whose fault it is: the staging host's when it lacks something, otherwise the RDB's. A server that meets a damaged RDB
    ends, and only its log says why."""
    log = throwaway.log_tail(instance.host, instance.connection["log"])
    message = f"dump.rdb cannot be loaded on host {instance.host.name}: {error.message}\n{log}"
    if HOST_LACKS.search(log):
        return CouldNotRunError(message, next_step=f"give host {instance.host.name} what is missing, then try again")
    return DamageError(
        message, name=RDB_NAME.decode(), next_step="restore an older snapshot, and run `backupctl check --read-data`"
    )


def keyspace(client: RedisClient) -> dict[str, int]:
    """Database → keys, of those that hold any."""
    text = str(client.command("INFO", "keyspace"))
    return {one: int(keys) for one, keys in re.findall(r"^db(\d+):keys=(\d+)", text, re.MULTILINE)}


def compare(name: str, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
    """What the server holds in its memory now, written by itself once more and read by the same reader as at backup time."""
    unknown = fingerprint["rdb"]["unknown"]
    if unknown:
        return [
            CheckResult("content", "compared", f"not compared: the RDB holds {unknown}, unknown here", True, 3),
        ]
    found = contents(name, instance, fingerprint["rdb"]["base_ms"])
    chosen = chosen_databases(instance)
    results: list[CheckResult] = []
    now_ms = int(found["aux"]["ctime"]) * 1000 + 1000
    for database in sorted({*fingerprint["databases"], *found["databases"]}, key=int):
        if chosen is None or database in chosen:
            want, have = fingerprint["databases"].get(database), found["databases"].get(database)
            results += compare_database(database, want, have, now_ms - fingerprint["rdb"]["base_ms"])
    if fingerprint["functions"][0] or found["functions"][0]:
        results.append(same("function libraries", fingerprint["functions"], found["functions"]))
    return results


def contents(name: str, instance: Instance, base_ms: int) -> dict[str, Any]:
    client, host = client_of(instance, name), instance.host
    path = f"{instance.directory.decode()}/data/{RDB_NAME.decode()}"
    try:
        client.command("SAVE")
    except SourceError as error:
        log = throwaway.log_tail(host, instance.connection["log"])
        raise CouldNotRunError(f"the instance cannot say what it holds: {error.message}\n{log}") from error
    completed = host.run(rdb_reader(host, str(base_ms), path))
    host.remove_tree(path.encode())
    try:
        found: dict[str, Any] = json.loads(completed.stdout)
    except ValueError:
        found = {"error": said(completed)}
    if "error" in found:
        raise CouldNotRunError(f"host {host.name}: reading {path}: {found['error']}")
    return found


def compare_database(
    database: str, want: Mapping[str, Any] | None, have: Mapping[str, Any] | None, age_ms: int
) -> Iterator[CheckResult]:
    """Keys that stay are equal, all of them. Keys that expire are equal as far as they cannot be gone by now; the class of
    times to live into which this moment falls, and those before it, are not compared."""
    nothing: dict[str, Any] = {"lasting": [0, "0" * 64], "expiring": {}, "values_not_compared": 0}
    want, have = want or nothing, have or nothing
    if want["lasting"][0] or have["lasting"][0]:
        yield same(f"keys of database {database}", want["lasting"], have["lasting"])
    current = rdb_program.class_of(age_ms)
    living = {one for one in (*want["expiring"], *have["expiring"]) if int(one) > current}
    if living:
        expected = [want["expiring"].get(one, [0, ""]) for one in sorted(living, key=int)]
        actual = [have["expiring"].get(one, [0, ""]) for one in sorted(living, key=int)]
        keys, found = sum(one[0] for one in expected), sum(one[0] for one in actual)
        differ = sum(left != right for left, right in zip(expected, actual, strict=True))
        text = f"{found} keys" + (f", {differ} of {len(living)} classes differ" if differ else "")
        yield CheckResult(f"expiring keys of database {database}", f"{keys} keys", text, not differ, 4)
    over = sum(one[0] for key, one in want["expiring"].items() if int(key) <= current)
    if over or want["values_not_compared"]:
        text = f"{over} keys had expired or were about to; of {want['values_not_compared']} keys only the name"
        yield CheckResult(f"not compared in database {database}", text, text, True, 3)


def same(what: str, want: Sequence[Any], have: Sequence[Any]) -> CheckResult:
    expected, actual = (f"{count}, {digest}" for count, digest in (want, have))
    return CheckResult(what, expected, actual, expected == actual, 4)


def query(name: str, instance: Instance, database: str, sql: str) -> list[list[str]]:
    """One command as it is typed into redis-cli, if the server calls it a reading one."""
    words = shlex.split(sql)
    client = client_of(instance, name)
    known = client.command("COMMAND", "INFO", words[0]) if words else None
    if not known or known[0] is None:
        raise UserError(f"query {sql!r}: no such command", next_step="correct the probe's query")
    if "readonly" not in known[0][2]:
        raise UserError(f"query {sql!r}: {words[0]} may write", next_step="probe with a reading command")
    return list(readable_words(client.command(*words, database=database)))
