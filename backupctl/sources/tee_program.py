"""Sends a dump and has its own restorer read it to the end on the way: text for the far Python (>= 3.6).

Standard input: a JSON object {"dump": [argv], "read": [argv]}, which may be longer than one argument of a command can be.

pg_dump's custom format has no end marker, and `pg_restore -l` succeeds on a truncated archive; only a full read notices.
Exit status 0 only if both programs ended with 0; standard error says which did not.
"""

import json
import os
import pathlib
import subprocess
import sys

BLOCK_BYTES = 1 << 20


def main() -> int:
    request = json.loads(sys.stdin.buffer.read().decode())
    dump = subprocess.Popen(request["dump"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    reader = subprocess.Popen(request["read"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert dump.stdout is not None
    assert reader.stdin is not None
    source, out, readable = dump.stdout.fileno(), sys.stdout.fileno(), True
    while True:
        data = os.read(source, BLOCK_BYTES)
        if not data:
            break
        if readable:
            try:
                reader.stdin.write(data)
            except OSError:
                readable = False  # it gave up: its exit status tells below
        view = memoryview(data)
        while view:
            view = view[os.write(out, view) :]
    try:
        reader.stdin.close()
    except OSError:
        readable = False
    codes = dump.wait(), reader.wait()
    for argv, code in zip((request["dump"], request["read"]), codes):  # noqa: B905 - `strict` needs Python 3.10
        if code != 0:
            sys.stderr.write(f"{pathlib.Path(argv[0]).name} ended with {code}\n")
    return 0 if codes == (0, 0) and readable else 1


if __name__ == "__main__":
    sys.exit(main())
