"""Keeps one database client beside its server and passes on the rows that it prints, table after table: text for the far
Python (>= 3.6).

Standard input: a JSON line {"argv": […], "mark": a text that no row can hold, "script": SQL that opens the view}, then one
{"script": SQL that prints rows, "ordered": bool} for each table. Standard output, for each of these lines: what the client
printed, then `MARK {"rows", "digest"}` on a line of its own. Exit status: the client's.

Digests are those of `digest_program`, made here so that what is proven includes the way from here to the repository.
"""

import json
import os
import subprocess
import sys

from backupctl.sources.digest_program import BLOCK_BYTES, Table


def send(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


def pass_rows(source: int, end: bytes, table: Table) -> bool:
    """Until the line `end`; False when the client ended before it."""
    begun = []  # of a row that is longer than what one read gives
    while True:
        data = os.read(source, BLOCK_BYTES)
        if not data:
            return False
        cut = data.rfind(b"\n") + 1
        if not cut:
            begun.append(data)
            continue
        block = b"".join(begun) + data[:cut]
        begun = [data[cut:]]
        ended = block.endswith(end)
        if ended:
            block = block[: -len(end)]
        table.add_block(block)
        send(block)
        if ended:
            return True


def main() -> int:
    client = None
    mark = ""
    for line in sys.stdin.buffer:
        request = json.loads(line.decode())
        if client is None:
            mark = request["mark"]
            client = subprocess.Popen(request["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdin is not None
        assert client.stdout is not None
        table = Table(0, request.get("ordered", True))
        try:
            client.stdin.write((request["script"] + "\n\\echo " + mark + "\n").encode())
            client.stdin.flush()
        except OSError:
            return client.wait()  # it ended early: its exit status and its words tell why
        if not pass_rows(client.stdout.fileno(), mark.encode() + b"\n", table):
            return client.wait() or 4
        send(mark.encode() + b" " + json.dumps(table.report()).encode() + b"\n")
    if client is None:
        return 0
    assert client.stdin is not None
    client.stdin.close()
    return client.wait()


if __name__ == "__main__":
    sys.exit(main())
