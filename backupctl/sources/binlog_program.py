"""Runs mariadb-binlog so that the raw log comes out of a pipe: sent as text to the far Python (>= 3.6). It writes raw logs into
files only; so the file is a named pipe in a private directory."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

READ_BYTES = 1 << 18


def main(request: "dict[str, object]") -> int:
    directory = tempfile.mkdtemp(prefix="bctl-")
    try:
        name = str(request["name"])
        path = f"{directory}/{name}"
        os.mkfifo(path, 0o600)
        argv = [str(word) for word in request["argv"]]  # type: ignore[attr-defined]  # a list, as JSON gave it
        argv[-1] += directory + "/"
        # opened for both ways: a program that fails before it opens its end would leave us waiting
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        process = subprocess.Popen([*argv, name], stdin=subprocess.DEVNULL)
        try:
            copy(reading, process)
        except BrokenPipeError:
            process.kill()
        finally:
            os.close(reading)
        return process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def copy(reading: int, process: "subprocess.Popen[bytes]") -> None:
    """Until the program has ended and nothing is left in the pipe."""
    import select

    out = sys.stdout.buffer
    while True:
        ended = process.poll() is not None
        ready, _, _ = select.select([reading], [], [], 0.1)
        try:
            data = os.read(reading, READ_BYTES) if ready else b""
        except BlockingIOError:
            data = b""
        if data:
            out.write(data)
        elif ended:
            break
        elif ready:  # nobody has opened the other end yet
            select.select([], [], [], 0.01)
    out.flush()


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    sys.exit(code if code >= 0 else 128 - code)
