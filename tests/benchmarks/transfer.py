"""How fast a large file comes from a machine by SSH, over loopback: ours by either transport, beside `ssh host cat` and `scp`.

    python -m tests.benchmarks.transfer [--mebibytes 512] [--rounds 5]

All take their turn in each round, on the same private sshd and the same file, which is in the page cache. What counts is the
ratio within a round: a shared machine is now fast and now slow, for all of them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backupctl.hosts.ssh import SshHost
from backupctl.hosts.transport import Login
from tests.servers.plugin_sshd import ssh_options
from tests.servers.sshd import Sshd

BLOCK_BYTES = 1 << 20
REFERENCE = "ssh cat"


def read_file(host: SshHost, path: Path) -> int:
    """As a file of a source is read."""
    with host.open_read(os.fsencode(path)) as stream:
        return sum(map(len, iter(lambda: stream.read(BLOCK_BYTES), b"")))


def read_stream(host: SshHost, path: Path) -> int:
    """As a database's dump is read."""
    with host.start(["cat", str(path)]) as process:
        size = sum(map(len, iter(lambda: process.stdout.read(BLOCK_BYTES), b"")))
        assert process.finish().returncode == 0
    return size


def read_pipe(argv: list[str]) -> int:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0)
    out = process.stdout
    assert out is not None
    size = sum(map(len, iter(lambda: out.read(BLOCK_BYTES), b"")))
    assert process.wait() == 0
    return size


def copied(argv: list[str], target: Path) -> int:
    subprocess.run(argv, check=True)
    return target.stat().st_size


def measure(mebibytes: int, rounds: int) -> dict[str, list[float]]:
    """Name → bytes per second of each round."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, Sshd(Path(directory) / "sshd") as server:
        path, target = Path(directory) / "file", Path(directory) / "copy"
        with path.open("wb") as out:
            for _ in range(mebibytes):
                out.write(os.urandom(BLOCK_BYTES))
        plain = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={directory}/known"]
        plain += ["-o", "LogLevel=ERROR", "-i", str(server.login_key)]
        place = f"{server.user}@{server.address}"
        near = {
            name: SshHost("web1", ssh_options(server, transport=name), Login(server.login_key.read_bytes()))
            for name in ("paramiko", "openssh")
        }
        cat = ["ssh", *plain, "-p", str(server.port), place, f"cat {path}"]
        scp = ["scp", "-O", "-q", *plain, "-P", str(server.port), f"{place}:{path}", str(target)]
        turns: dict[str, Callable[[], int]] = {
            REFERENCE: lambda: read_pipe(cat),
            "scp": lambda: copied(scp, target),
        }
        for name, host in near.items():
            host.facts()  # connected before the first turn, as for the second file of a backup
            turns[f"{name}, file"] = lambda host=host: read_file(host, path)
            turns[f"{name}, stream"] = lambda host=host: read_stream(host, path)
        for _ in range(rounds):
            for name, turn in turns.items():
                started = time.perf_counter()
                size = turn()
                assert size == mebibytes * BLOCK_BYTES, (name, size)
                found.setdefault(name, []).append(size / (time.perf_counter() - started))
        for host in near.values():
            host.close()
    return found


def table(found: dict[str, list[float]]) -> str:
    """Medians, and the medians of the ratios within a round."""
    lines = ["| | MB/s | against `ssh host cat` | against `scp` |", "|---|---|---|---|"]
    for name, rates in found.items():
        against = [
            statistics.median(ours / theirs for ours, theirs in zip(rates, found[other], strict=True))
            for other in (REFERENCE, "scp")
        ]
        lines.append(f"| {name} | {statistics.median(rates) / 1e6:.0f} | {against[0]:.2f} | {against[1]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.transfer", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(table(measure(given.mebibytes, given.rounds)))
