"""Runs innochecksum over every tablespace below a directory: sent as text to the far Python (>= 3.6). Answers one JSON object."""

import json
import os
import re
import subprocess
import sys

TABLESPACE = re.compile(r"\.ibd$|^ibdata\d+$|^undo\d+$")


def main(directory: str) -> int:
    bad = {}
    missing = False
    for folder, _, names in os.walk(directory):
        for name in names:
            path = f"{folder}/{name}"
            if not TABLESPACE.search(name) or missing:
                continue
            try:
                done = subprocess.run(["innochecksum", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: UP022 - Python 3.6
            except FileNotFoundError:
                missing = True
                continue
            if done.returncode != 0:
                said = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
                bad[os.path.relpath(path, directory)] = said[0][:300] if said else f"exit status {done.returncode}"
    sys.stdout.write(json.dumps({"bad": bad, "missing": missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
