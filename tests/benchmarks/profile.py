"""Where the time of one command goes: `python -m tests.benchmarks.profile backupctl run JOB`.

Every process of the command looks at itself after each 2 ms of processor time and counts the source line it is in. What a
line calls in C counts for the line, so the lines are sorted by what they call: reading, hashing, compressing and so on.
What is in no such line is Python itself. Costs about 5 % of time.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

PHASES = (
    ("start", re.compile(r"^<frozen importlib")),
    ("hash", re.compile(r"sha256\(|digest\.update\(")),
    ("unzip to verify", re.compile(r"decompressor?\.decompress\(|_zstd\.decompress\(")),
    ("compress", re.compile(r"compressor?\.compress\(")),
    ("seal and open", re.compile(r"_cipher\.|Poly1305\.|_masks\.|_ivs|urandom|hmac")),
    ("chunk", re.compile(r"_cdc\.|cut_stream|bytes\(chunk\.data\)")),
    ("read", re.compile(r"os\.read\(|os\.open\(|os\.pread\(|_file\.read\(|os\.fstat\(|os\.close\(")),
    ("look", re.compile(r"os\.stat\(|listdir\(|listxattr\(|getxattr\(|readlink\(")),
    ("write", re.compile(r"os\.write\(|fsync\(|os\.rename\(|os\.replace\(|b\"\"\.join\(pieces\)")),
    ("between processes", re.compile(r"pickle\.|answers\.flush|_stdin\.flush|__getnewargs__|__reduce__")),
)
PYTHON = "Python itself"

_HOOK = """
import os
if os.environ.get("BACKUPCTL_PROFILE"):
    import atexit, collections, json, signal
    counts = collections.Counter()
    def look(number, frame):
        code = frame.f_code
        counts[f"{code.co_filename}|{frame.f_lineno or 0}|{code.co_qualname}"] += 1
        if sum(counts.values()) % 50 == 0:
            write()
    def stop():  # before the interpreter goes: without its handler the signal would kill
        signal.setitimer(signal.ITIMER_PROF, 0)
    def write():
        stop()
        path = f"{os.environ['BACKUPCTL_PROFILE']}/{os.getpid()}"
        with open(path, "w") as file:
            json.dump(dict(counts), file)
        os.replace(path, path + ".json")
        signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    def start():
        counts.clear()
        signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    atexit.register(stop)
    start()
    os.register_at_fork(after_in_child=start)
"""


def phase(filename: str, line: int, function: str) -> str:
    """What the processor was doing there."""
    text = linecache.getline(filename, line) + f" {function}"
    for name, sign in PHASES:
        if sign.search(filename if name == "start" else text):
            return name
    return "start" if function == "<module>" else PYTHON


def run(command: list[str]) -> tuple[int, list[Counter[str]]]:
    """The command's exit code, and for each of its processes how often each phase was met."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(_HOOK)
        environment = {**os.environ, "BACKUPCTL_PROFILE": folder, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": ""}
        done = subprocess.run(command, env=environment, check=False)
        processes = []
        for path in sorted(Path(folder).glob("*.json")):
            counts: Counter[str] = Counter()
            for place, number in json.loads(path.read_text()).items():
                filename, line, function = place.rsplit("|", 2)
                counts[phase(filename, int(line), function)] += number
            processes.append(counts)
    return done.returncode, sorted(processes, key=Counter.total, reverse=True)


def table(processes: list[Counter[str]]) -> str:
    """Shares of all samples; a column for each process."""
    total = sum((counts.total() for counts in processes), 0) or 1
    lines = ["| phase | " + " | ".join(f"process {number + 1}" for number in range(len(processes))) + " | all |"]
    lines.append("|---|" + "--:|" * (len(processes) + 1))
    together = sum(processes, Counter())
    for name, number in together.most_common():
        shares = " | ".join(f"{100 * counts[name] / total:.1f} %" for counts in processes)
        lines.append(f"| {name} | {shares} | {100 * number / total:.1f} % |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    code, processes = run(arguments)
    print(table(processes))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
