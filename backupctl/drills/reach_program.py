"""Which of some addresses this machine reaches by TCP: sent as text to the far Python (>= 3.6). Arguments: seconds, then
ADDRESS:PORT each. Prints a JSON list of those that a connection came through to; refused, dropped and unknown ones are not in it.
"""

import concurrent.futures
import json
import socket
import sys


def reached(place: str, seconds: float) -> bool:
    address, _, port = place.rpartition(":")
    try:
        with socket.create_connection((address, int(port)), timeout=seconds):
            return True
    except OSError:
        return False


def main() -> None:
    seconds, places = float(sys.argv[1]), sys.argv[2:]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda place: reached(place, seconds), places))
    print(json.dumps([place for place, yes in zip(places, found) if yes]))  # noqa: B905  Python 3.6 has no `strict`


if __name__ == "__main__":
    main()
