"""Runs mariadb-binlog as a replica that never ends, and passes on what it receives: sent as text to the far Python (>= 3.6).

    binlog_receive_program FIRST ARGV…    the last word of ARGV is the option that takes where to write, without its value

It writes raw logs into files only, in a private directory; each is read as it grows, and has no name any more as soon as we have
it open: whoever kills us leaves no log behind. Standard output: `NAME LENGTH` and a line end, then so many bytes, over and over.
Ends when mariadb-binlog does, with its exit status, or when standard input ends: nobody is there any more.
"""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

READ_BYTES = 1 << 18
POLL_SECONDS = 0.2


def number(name: str) -> "tuple[str, int]":
    base, _, digits = name.rpartition(".")
    return base, int(digits) if digits.isdigit() else -1


class Spool:
    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.name = ""
        self.file = -1

    def pass_on(self) -> None:
        """All that is there by now."""
        names = sorted((path.name for path in self.directory.iterdir()), key=number)
        if not self.name and names:
            self.open(names[0])
        while self.name:
            self.rest()
            later = [one for one in names if number(one) > number(self.name)]
            if not later:
                return
            self.rest()  # what came before the next one began, and after we looked
            os.close(self.file)
            self.open(later[0])

    def rest(self) -> None:
        out = sys.stdout.buffer
        while True:
            data = os.read(self.file, READ_BYTES)
            if not data:
                break
            out.write(f"{self.name} {len(data)}\n".encode() + data)
        out.flush()

    def open(self, name: str) -> None:
        self.name, self.file = name, os.open(str(self.directory / name), os.O_RDONLY)
        (self.directory / name).unlink()


def main(first: str, argv: "list[str]") -> int:
    directory = tempfile.mkdtemp(prefix="bctl-")
    try:
        process = subprocess.Popen([*argv[:-1], f"{argv[-1]}{directory}/", first], stdin=subprocess.DEVNULL)
        spool = Spool(directory)
        try:
            while True:
                ended = process.poll() is not None
                spool.pass_on()
                if ended:
                    return process.returncode
                gone, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
                if gone and not os.read(0, 1):
                    return 0
        except BrokenPipeError:
            return 0
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
