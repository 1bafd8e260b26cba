"""Runs mariadb-binlog so that the raw log comes out of a pipe: sent as text to the far Python (>= 3.6).

    binlog_program NAME ARGV…    the last word of ARGV is the option that takes where to write, without its value

It writes raw logs into files only; so the file is a named pipe in a private directory, which goes as soon as both ends are open:
who asked may have enough before the log ends, and then kills us.
"""

import os
import select
import shutil
import subprocess
import sys
import tempfile

READ_BYTES = 1 << 18


def main(name: str, argv: "list[str]") -> int:
    directory = tempfile.mkdtemp(prefix="bctl-")
    try:
        path = f"{directory}/{name}"
        os.mkfifo(path, 0o600)
        # a program that fails before it opens its end must not leave us waiting
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        process = subprocess.Popen([*argv[:-1], f"{argv[-1]}{directory}/", name], stdin=subprocess.DEVNULL)
        try:
            copy(reading, process, directory)
        except BrokenPipeError:
            process.kill()
        finally:
            os.close(reading)
        return process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def copy(reading: int, process: "subprocess.Popen[bytes]", directory: str) -> None:
    """Until the program has ended and nothing is left in the pipe."""
    out = sys.stdout.buffer
    while True:
        ended = process.poll() is not None
        ready, _, _ = select.select([reading], [], [], 0.1)
        try:
            data = os.read(reading, READ_BYTES) if ready else b""
        except BlockingIOError:
            data = b""
        if data:
            shutil.rmtree(directory, ignore_errors=True)
            out.write(data)
        elif ended:
            break
        elif ready:  # nobody has opened the other end yet
            select.select([], [], [], 0.01)
    out.flush()


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
