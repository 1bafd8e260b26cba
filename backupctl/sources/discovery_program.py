"""Which database servers run on a host: sent as text to the far Python (>= 3.6). Prints a JSON list, one object for each server
process whose parent is no such process: program, pid, user, directory ("" where it does not tell), port ("" likewise).

Only what every account may read is needed: the names and command lines in /proc.
"""

import json
import os
import pathlib
import pwd
import re
import sys

KINDS = {
    "postgres": "postgresql",
    "mariadbd": "mariadb",
    "mysqld": "mysql",
    "redis-server": "redis",
    "valkey-server": "redis",
    "mongod": "mongodb",
}
DIRECTORY = re.compile(r"^(?:--datadir=|--data-directory=|-D(?!$)|--dbpath=|--dir=)(.+)")
PORT = re.compile(r"^(?:--port=|port=|-cport=|-p(?=[0-9]))([0-9]+)$")


def read(pid: str, name: str) -> bytes:
    try:
        with pathlib.Path("/proc", pid, name).open("rb") as file:
            return file.read()
    except OSError:
        return b""


def words_of(pid: str) -> "list[str]":
    return [os.fsdecode(word) for word in read(pid, "cmdline").split(b"\0") if word]


def value(words: "list[str]", pattern: "re.Pattern[str]", *flags: str) -> str:
    for number, word in enumerate(words):
        found = pattern.match(word)
        if found:
            return found.group(1)
        if word in flags and number + 1 < len(words):
            return words[number + 1]
    return ""


def directory_of(pid: str, words: "list[str]") -> str:
    named = value(words, DIRECTORY, "-D", "--datadir", "--dbpath", "--dir")
    try:
        return named or os.readlink(str(pathlib.Path("/proc", pid, "cwd")))  # noqa: PTH115 - Python 3.6
    except OSError:
        return ""


def port_of(words: "list[str]") -> str:
    title = re.search(
        r":([0-9]+)(?: |$)", words[0] if words else ""
    )  # redis-server writes where it listens over its name
    return value(words, PORT, "-p", "--port") or (title.group(1) if title else "")


def servers() -> "list[dict[str, str]]":
    found = {}
    parents = {}
    for pid in os.listdir("/proc"):  # noqa: PTH208 - names are enough
        name = os.fsdecode(read(pid, "comm")).strip() if pid.isdigit() else ""
        if name in KINDS:
            fields = read(pid, "stat").rpartition(b")")[2].split()
            parents[pid] = fields[1].decode() if fields and fields[0] != b"Z" else ""
            found[pid] = name
    told = []
    for pid, name in sorted(found.items(), key=lambda one: int(one[0])):
        if not parents[pid] or parents[pid] in found:
            continue
        words = words_of(pid)
        try:
            user = pwd.getpwuid(pathlib.Path("/proc", pid).stat().st_uid).pw_name
        except (OSError, KeyError):
            user = ""
        told.append(
            {
                "kind": KINDS[name],
                "program": name,
                "pid": pid,
                "user": user,
                "directory": directory_of(pid, words),
                "port": port_of(words),
            }
        )
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(servers()) + "\n")
