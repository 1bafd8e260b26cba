"""How much faster several workers store one source: `python -m tests.scale.divided [FILES [MB_PER_SECOND]]`.

Every request to the store takes 50 ms and each of a worker's two connections carries 8 MB/s, or what is said, as a store far
away does: the workers of this measurement share one machine, and a delay is what they need not share. Each is a process of
its own, with one worker process for reading; helpers begin as soon as they are asked for. Prints a table. The tree must be that
of one worker, whoever stored it. Needs PostgreSQL's programs, and twice the room of the files.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from backupctl.catalog.models import Run
from backupctl.storage.local import LocalStore
from tests.scheduling.fleet_site import FleetSite, code_of, new_database, until
from tests.servers import databases

REQUEST_SECONDS = 0.05
BYTES_PER_SECOND = 1e6 * float(sys.argv[2] if sys.argv[2:] else 8)
DIRECTORIES = 64
FILE_BYTES = 1 << 20


def far_away() -> None:
    """From now on, in this process."""
    put, get = LocalStore.put, LocalStore.get

    def slow_put(self: LocalStore, name: str, data: bytes, *, if_absent: bool = False) -> None:
        time.sleep(REQUEST_SECONDS + len(data) / BYTES_PER_SECOND)
        put(self, name, data, if_absent=if_absent)

    def slow_get(self: LocalStore, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        found = get(self, name, offset=offset, length=length)
        time.sleep(REQUEST_SECONDS + len(found) / BYTES_PER_SECOND)
        return found

    LocalStore.put, LocalStore.get = slow_put, slow_get  # type: ignore[method-assign]  # of this process alone


def night(site: FleetSite, workers: int) -> tuple[float, str]:
    """Seconds from the claim to the end of one run, and its id."""
    run_id = site.queued()
    pids = [site.fork(run_id, far_away)]
    with site.context() as context:

        def helpers() -> list[Run]:
            return context.catalog.runs(kind="stretch", states=("queued",))

        if workers > 1:
            until(lambda: len(helpers()) == workers - 1, "helpers to be asked for")
            pids += [site.fork(run.id, far_away) for run in helpers()]
        for pid in pids:
            code = code_of(pid, seconds=1800)
            assert code in (0, 130), code
        run = context.catalog.run(run_id)
    assert run is not None and run.started is not None and run.finished is not None and run.state == "complete"
    return (run.finished - run.started).total_seconds(), run_id


def measure(place: Path, url: str, workers: int, files: int) -> tuple[float, float]:
    """The first night, and one on which a tenth of the files is new."""
    place.mkdir()
    site = FleetSite(place, url)
    for number in range(files):
        directory = place / "data" / f"{number % DIRECTORIES:02}"
        directory.mkdir(exist_ok=True)
        (directory / f"file {number}").write_bytes(os.urandom(FILE_BYTES))
    single = ", host: shared"
    site.options = single + (f", split: {workers}" if workers > 1 else "")
    site.settings = site.written(url)
    first, _ = night(site, workers)
    for number in range(0, files, 10):
        (place / "data" / f"{number % DIRECTORIES:02}" / f"file {number}").write_bytes(os.urandom(FILE_BYTES))
    second, run_id = night(site, workers)
    site.options = single
    site.settings = site.written(url)
    _, again = night(site, 1)
    assert site.tree(run_id) == site.tree(again), "one worker makes another tree"
    return first, second


def main() -> None:
    files = int(sys.argv[1]) if sys.argv[1:] else 4096
    os.environ["BACKUPCTL_WORKERS"] = "1"
    programs = databases.postgres_directory()
    assert programs is not None, "needs PostgreSQL's programs"
    rows = []
    with databases.postgres_server(programs) as server, tempfile.TemporaryDirectory(prefix="divided-") as temporary:
        for workers in (1, 2, 4):
            place = Path(temporary) / f"{workers}"
            rows.append((workers, *measure(place, new_database(server), workers, files)))
            shutil.rmtree(place)
    print(
        f"{files} files of 1 MiB that do not compress, {DIRECTORIES} directories; load average {os.getloadavg()[1]:.1f}"
    )
    print("workers  first night  speed-up  a tenth is new  speed-up")
    for workers, first, second in rows:
        print(f"{workers:7}  {first:9.1f} s  {rows[0][1] / first:7.2f}×  {second:12.1f} s  {rows[0][2] / second:7.2f}×")


if __name__ == "__main__":
    main()
