"""Makes golden repositories. One that is there stays as it is: what was once written must be readable forever.

python -m tests.golden.make                     those that are missing
python -m tests.golden.make --replace NAME…     these anew, after a look at why
"""

from __future__ import annotations

import argparse
import sys

from tests.golden import damaged, healthy
from tests.golden.golden import Golden


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--replace", action="store_true", help="make NAMEs that are there already anew")
    chosen = parser.parse_args(arguments)
    makers = healthy.makers() | damaged.makers()
    if unknown := set(chosen.names) - makers.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(makers)}")
    if chosen.replace and not chosen.names:
        parser.error("--replace wants names")
    there = [name for name in chosen.names if Golden(name).tar.exists()]
    if there and not chosen.replace:
        parser.error(f"{', '.join(there)}: there already; --replace makes it anew, and what is lost is a promise")
    for name in chosen.names or [name for name in makers if not Golden(name).tar.exists()]:
        objects, expected = makers[name]()
        Golden(name).save(objects, expected)
        print(f"{name}: {len(objects)} objects, {Golden(name).tar.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
