"""Runs a database client beside its server and hashes what it prints: sent as text to the far Python (>= 3.6).

Standard input: one JSON object {"argv": […], "script": SQL for the client's stdin, "mark": a text no row can hold}.
The script prints a line `MARK INDEX ordered|free` before each table's rows and `MARK end` after the last; `MARK ready`
before the first is passed on at once as {"ready": true}. Standard output: at the end, one JSON line {"index", "rows",
"digest"} per table that was read to its end, in the script's order, then {"end": true} when the client succeeded. Exit status:
the client's, or 4 when it succeeded without printing the end. Nothing is printed in between: a reader that is late would make
the server give up the client. A line with a number behind it, other than 0, says that reading the table before it met so many
errors: that table is left out.

`ordered` is SHA-256 over the lines; `free` is the sum modulo 2**128 of each line's BLAKE2b-128, which no order changes and
which, unlike XOR, duplicate rows do not cancel.
"""

import hashlib
import json
import subprocess
import sys
import threading

BLOCK_BYTES = 1 << 20


class Table:
    def __init__(self, index: int, ordered: bool) -> None:
        self.index, self.ordered, self.rows, self.total = index, ordered, 0, 0
        self.sha256 = hashlib.sha256()

    def add(self, lines: "list[bytes]") -> None:
        self.rows += len(lines)
        if self.ordered:
            self.sha256.update(b"".join(lines))
            return
        for line in lines:
            self.total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")

    def add_block(self, block: bytes) -> None:
        """Whole lines, without taking them apart where that is not needed."""
        if self.ordered:
            self.rows += block.count(b"\n")
            self.sha256.update(block)
        else:
            self.add(block.splitlines(True))  # a carriage return inside a row is always escaped

    def report(self) -> "dict[str, object]":
        digest = self.sha256.hexdigest() if self.ordered else f"{self.total % (1 << 128):032x}"
        return {"index": self.index, "rows": self.rows, "digest": digest}


def say(what: "dict[str, object]") -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> int:
    request = json.loads(sys.stdin.buffer.read().decode())
    mark = request["mark"].encode()
    client = subprocess.Popen(request["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None

    def feed() -> None:
        assert client.stdin is not None
        try:
            client.stdin.write(request["script"].encode())
            client.stdin.close()
        except OSError:
            return  # the client ended early: its exit status tells why

    threading.Thread(target=feed, daemon=True).start()
    table, ended = None, False
    reports = []  # type: list[dict[str, object]]
    while True:
        lines = client.stdout.readlines(BLOCK_BYTES) if table is not None else [client.stdout.readline()]
        if not lines or not lines[0]:
            break
        marks = [number for number, line in enumerate(lines) if line.startswith(mark)]
        start = 0
        for number in [*marks, len(lines)]:
            if table is not None:
                table.add(lines[start:number])
            start = number + 1
            if number == len(lines):
                break
            words = lines[number].split()
            if table is not None and not (words[-1].isdigit() and int(words[-1])):
                reports.append(table.report())
            ended, table = words[1] == b"end", None
            if words[1] == b"ready":
                say({"ready": True})
            elif not ended:
                table = Table(int(words[1]), words[2] == b"ordered")
    code = client.wait()
    for report in reports:
        say(report)
    if code == 0 and not ended:
        sys.stderr.write("the client ended without the last mark\n")
        return 4
    if code == 0:
        say({"end": True})
    return code


if __name__ == "__main__":
    sys.exit(main())
