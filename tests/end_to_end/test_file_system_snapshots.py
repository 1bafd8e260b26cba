"""Snapshots of file systems by the very commands of docs/how-to/hooks.md, with runs killed after each of them.

btrfs is real, on a loop device. Device-mapper and ZFS are parts of a kernel that few test machines have: their commands run
against programs that stand in for them, which keep volumes and mounts as copies, and refuse what the real ones refuse, with
their exit statuses.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.docs.pages import DOCS
from tests.end_to_end.site import Site
from tests.end_to_end.test_hooks import KILL_THE_RUN

STAND_IN = r"""#!/bin/sh
# NAME: which program this is. Volumes lie in $state/dev, what is mounted in $state/mounts.
name=${0##*/} state=@STATE@ live=@LIVE@
refuse() { status=$1; shift; echo "$name: $*" >&2; exit "$status"; }
copy() { mkdir "$2" && tar -C "$1" --exclude ./.zfs -c . | tar -C "$2" -x; }
case "$name $*" in
"lvcreate -s -n backupctl -L 5G vg/srv")
  [ ! -e "$state/dev/backupctl" ] || refuse 5 'Logical Volume "backupctl" already exists in volume group "vg"'
  copy "$live" "$state/dev/backupctl" ;;
"lvremove -y vg/backupctl")
  [ -e "$state/dev/backupctl" ] || refuse 5 'Failed to find logical volume "vg/backupctl"'
  [ ! -e "$state/mounts/backupctl" ] || refuse 5 'Logical volume vg/backupctl contains a filesystem in use.'
  rm -r "$state/dev/backupctl" ;;
"mount -o ro,nouuid /dev/vg/backupctl @MOUNT@")
  [ -e "$state/dev/backupctl" ] || refuse 32 'special device /dev/vg/backupctl does not exist.'
  [ -d "@MOUNT@" ] || refuse 32 '@MOUNT@: mount point does not exist.'
  [ ! -e "$state/mounts/backupctl" ] || refuse 32 '/dev/vg/backupctl already mounted on @MOUNT@.'
  rmdir "@MOUNT@" && copy "$state/dev/backupctl" "@MOUNT@" && touch "$state/mounts/backupctl" ;;
"umount @MOUNT@")
  [ -e "$state/mounts/backupctl" ] || refuse 32 '@MOUNT@: not mounted.'
  rm -r "@MOUNT@" "$state/mounts/backupctl" && mkdir "@MOUNT@" ;;
"zfs snapshot tank/srv@backupctl")
  [ ! -e "$live/.zfs/snapshot/backupctl" ] || refuse 1 "cannot create snapshot 'tank/srv@backupctl': dataset already exists"
  mkdir -p "$live/.zfs/snapshot" && copy "$live" "$live/.zfs/snapshot/backupctl" ;;
"zfs destroy tank/srv@backupctl")
  [ -e "$live/.zfs/snapshot/backupctl" ] || refuse 1 'could not find any snapshots to destroy; check snapshot names.'
  rm -r "$live/.zfs/snapshot/backupctl" ;;
*) refuse 2 "not called with these arguments: $*" ;;
esac
echo "$name $*" >> "$state/log"
if [ "$(cat "$state/kill" 2>/dev/null)" = "$name $1" ]; then
  rm "$state/kill"
  read -r _ _ _ run _ < "/proc/$PPID/stat" # its parent is our supervisor, whose parent is the run
  kill -9 "$run"
  exec sleep 100
fi
"""
PROGRAMS = ("lvcreate", "lvremove", "mount", "umount", "zfs")


def documented(kind: str) -> dict[str, Any]:
    """What the table of the manual says for this kind of file system."""
    (row,) = re.findall(rf"^\| {kind} \| (.+) \| (.+) \|$", (DOCS / "how-to" / "hooks.md").read_text(), re.M)
    cells = [re.findall("`([^`]+)`", cell) for cell in row]
    at = [one.removeprefix("at: ") for one in cells[0] if one.startswith("at: ")]
    yaml = YAML(typ="safe")
    create, remove = (yaml.load(cell[0]) for cell in cells)
    return {"create": create, "remove": remove, "at": at[0] if at else "/mnt/backupctl"}


def configured(site: Site, snapshot: dict[str, Any], places: dict[str, Path], more: str = "") -> None:
    """The directories of the manual, which a test cannot have, are `places`."""
    text = json.dumps({"of": "/srv", **snapshot})
    for manual, path in places.items():
        text = re.sub(rf'(?<="){manual}(?=["/])', str(path), text)
    site.sources = {"www": f"{{files: {{paths: [{places['/srv']}/www], snapshot: {text}{more}}}}}"}
    site.configure()


def restored(site: Site, live: Path) -> Path:
    """What the newest snapshot has in place of `live`."""
    into = site.root / f"restored{len(list(site.root.glob('restored*')))}"
    site.run("restore", "--into", str(into))
    return into / "www" / str(live).lstrip("/")


class Volumes:
    """`site` with the directory /srv of the manual, on what stands in for `kind`."""

    def __init__(self, site: Site, kind: str) -> None:
        self.site, self.live = site, site.root / "srv"
        self.state, self.mount = site.root / "state", site.root / "mnt"
        for path in (self.live / "www", self.state / "dev", self.state / "mounts", self.state / "bin", self.mount):
            path.mkdir(parents=True)
        told = {"@STATE@": self.state, "@LIVE@": self.live, "@MOUNT@": self.mount}
        text = STAND_IN
        for word, path in told.items():
            text = text.replace(word, str(path))
        for name in PROGRAMS:
            (self.state / "bin" / name).write_text(text)
            (self.state / "bin" / name).chmod(0o755)
        site.environment["PATH"] = f"{self.state / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
        configured(site, documented(kind), {"/srv": self.live, "/mnt/backupctl": self.mount})
        self.write("first")

    def write(self, words: str) -> None:
        (self.live / "www" / "page").write_text(words)

    def restored(self) -> str:
        return (restored(self.site, self.live) / "www" / "page").read_text()

    def left(self) -> list[Path]:
        """What is there of a file system's snapshot."""
        places = [self.state / "dev", self.state / "mounts", self.mount, self.live / ".zfs" / "snapshot"]
        return [path for place in places if place.exists() for path in place.iterdir()]

    def log(self) -> list[str]:
        return [line.split()[0] for line in (self.state / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "commands"),
    [("LVM", ["lvcreate", "mount", "umount", "lvremove"]), ("ZFS", ["zfs", "zfs"])],
)
def test_a_snapshot_is_made_read_and_removed(site: Site, kind: str, commands: list[str]) -> None:
    volumes = Volumes(site, kind)
    assert site.run("run", "--json").line("finished")["state"] == "complete"
    assert volumes.log() == commands
    assert volumes.left() == []
    assert volumes.restored() == "first"


@pytest.mark.parametrize(
    ("kind", "killed_after", "warning"),
    [
        ("LVM", "lvcreate -s", "half there"),
        ("LVM", "mount -o", "left from a run that was killed: removed"),
        ("LVM", "umount @MOUNT@", "half there"),
        ("LVM", "lvremove -y", ""),
        ("ZFS", "zfs snapshot", "left from a run that was killed: removed"),
        ("ZFS", "zfs destroy", ""),
    ],
)
def test_what_a_run_killed_in_between_left_is_removed(site: Site, kind: str, killed_after: str, warning: str) -> None:
    volumes = Volumes(site, kind)
    (volumes.state / "kill").write_text(killed_after.replace("@MOUNT@", str(volumes.mount)))
    site.run("run", expect=1)
    assert bool(volumes.left()) == bool(warning)
    volumes.write("second")
    said = site.run("run", "--json", expect=3 if warning else 0)
    assert said.line("finished")["state"] == "complete"
    if warning:
        assert warning in said.line("warning")["message"]
    assert volumes.left() == []
    assert volumes.restored() == "second"


@pytest.fixture
def btrfs(site: Site) -> Iterator[Path]:
    """A file system, mounted in `site`."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    image, live = site.root / "image", site.root / "srv"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    live.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, live], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"btrfs is a part of the kernel that is not to be had here: {mounted.stderr.strip()}")
    try:
        (live / "www").mkdir()
        yield live
    finally:
        subprocess.run(["umount", live], check=True)


def test_a_snapshot_of_btrfs_is_made_read_and_removed_also_when_a_run_was_killed(site: Site, btrfs: Path) -> None:
    page, manual = btrfs / "www" / "page", documented("btrfs") | {"at": "/srv/.backupctl"}
    page.write_text("first")
    configured(site, manual, {"/srv": btrfs})
    assert site.run("run", "--json").line("finished")["state"] == "complete"
    assert list(btrfs.iterdir()) == [btrfs / "www"]
    assert (restored(site, btrfs) / "www" / "page").read_text() == "first"

    killed = {**manual, "create": [manual["create"], ["sh", "-c", KILL_THE_RUN]]}
    configured(site, killed, {"/srv": btrfs})
    site.run("run", expect=1)
    assert (btrfs / ".backupctl" / "www" / "page").read_text() == "first"
    page.write_text("second")
    changes = ["sh", "-c", f"echo third > {page}"]  # after the snapshot: not what is read
    configured(site, {**manual, "create": [manual["create"], changes]}, {"/srv": btrfs})
    said = site.run("run", "--json", expect=3)
    assert "left from a run that was killed: removed" in said.line("warning")["message"]
    assert list(btrfs.iterdir()) == [btrfs / "www"]
    assert (restored(site, btrfs) / "www" / "page").read_text() == "second"


def test_a_file_system_within_is_no_part_of_the_snapshot_and_is_named(site: Site, btrfs: Path) -> None:
    (btrfs / "www" / "empty").mkdir()
    subprocess.run(["btrfs", "subvolume", "create", btrfs / "www" / "nested"], check=True, capture_output=True)
    (btrfs / "www" / "nested" / "page").write_text("elsewhere")
    manual = documented("btrfs") | {"at": "/srv/.backupctl"}
    configured(site, manual, {"/srv": btrfs})
    said = site.run("run", "--json", expect=3)
    assert f"{btrfs}/www/nested is another file system" in said.line("warning")["message"]
    configured(site, manual, {"/srv": btrfs}, f", exclude: [{btrfs}/www/nested]")
    site.run("run")
