"""From a backup, logical or physical, through the binary logs that were stored since, to a point in time."""

from __future__ import annotations

from datetime import datetime

from backupctl.clock import iso, parse_iso
from backupctl.errors import NoSuchError
from backupctl.sources import mariadb_instance, mariadb_physical_instance
from backupctl.sources.mariadb_binlog import DIRECTORY, Position
from backupctl.sources.mariadb_instance import client_of
from backupctl.sources.mariadb_physical import beside
from backupctl.sources.mariadb_replay import Chain, Logs, end_of, replay, stop_at
from backupctl.sources.protocol import Fingerprint, Instance, SnapshotFiles, StoredFiles, StoredLogs


def load_until(
    name: str,
    instance: Instance,
    files: SnapshotFiles,
    fingerprint: Fingerprint,
    stored: StoredLogs,
    until: datetime | str | None,
) -> list[str]:
    """The target is looked for before anything is loaded: a refusal costs no hours."""
    logs, chain = find(name, fingerprint, stored, until)
    if fingerprint.get("method") == "physical":
        instance.connection["target"] = instance.connection["base"]  # no replay of its own
        notes = mariadb_physical_instance.load(name, instance, files, None)
    else:
        notes = mariadb_instance.load(name, instance, files, None)
    directory = f"{instance.directory.decode()}/recovery"
    instance.host.make_directory(directory.encode())
    with client_of(instance, name) as client:
        paths = logs.place(instance.host, directory, chain.files)
        replay(client, beside(client, client.family.log_reader), chain, paths)
    last = f", the newest transaction is of {iso(chain.last_commit)}" if chain.last_commit else ""
    return [*notes, f"recovered from {chain.start} to {chain.end}{last}"]


def find(name: str, fingerprint: Fingerprint, stored: StoredLogs, until: datetime | str | None) -> tuple[Logs, Chain]:
    start = start_of(name, fingerprint)
    logs, proven = logs_from(start, fingerprint, stored)
    return logs, stop_at(logs, start, end_of(until) if until is not None else None, proven)


def log_time(fingerprint: Fingerprint, stored: StoredLogs) -> datetime | None:
    """When the newest stored log of the server was read."""
    times = (parse_iso(facts["time"]) for facts, _ in stored if holds_logs(facts, fingerprint))
    return next(times, None)


def holds_logs(facts: Fingerprint, fingerprint: Fingerprint) -> bool:
    """Whether they are of the server that a backup was made of."""
    return "logs" in facts and facts.get("server_uid") == fingerprint.get("server_uid")


def start_of(name: str, fingerprint: Fingerprint) -> Position:
    """Where the backup alone ends."""
    found = fingerprint["base"] if fingerprint.get("method") == "physical" else fingerprint.get("binary_log")
    if not found:
        raise NoSuchError(
            f"source {name}: the server wrote no binary log when this backup was made",
            next_step="choose the backup itself, by its id; set log_bin in the server's configuration for the next time",
        )
    return Position(*found)


def logs_from(start: Position, fingerprint: Fingerprint, stored: StoredLogs) -> tuple[Logs, datetime | None]:
    """Of the same server, each log from the newest snapshot that has it, back to where `start` is; and when the newest was read."""
    holders: dict[str, StoredFiles] = {}
    proven: datetime | None = None
    for facts, files in stored:
        if not holds_logs(facts, fingerprint):
            continue
        proven = proven or parse_iso(facts["time"])
        for one in files.names(DIRECTORY):
            path, held = DIRECTORY + b"/" + one, holders.get(one.decode())
            if held is None or held.size(path) < files.size(path):  # what was received may lack the end of a log
                holders[one.decode()] = files
        if start.file in holders:
            break
    return Logs(list(holders), lambda name: holders[name].open(DIRECTORY + b"/" + name.encode())), proven
