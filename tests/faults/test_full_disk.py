"""Disks that fill up, for real: small file systems in memory. Needs root to mount them; without, a store that says so is
tested in `test_crash.py`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.site import Site

Mount = Callable[[Path, str], None]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


@pytest.fixture
def mount() -> Iterator[Mount]:
    mounted: list[Path] = []

    def mount_small(directory: Path, size: str) -> None:
        directory.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(directory)

    yield mount_small
    for directory in mounted:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def files_only(tmp_path: Path) -> Site:
    site = Site.create(tmp_path)
    del site.sources["db"]
    site.configure()
    return site


def test_the_repository_is_full(files_only: Site, mount: Mount) -> None:
    site = files_only
    mount(site.repository, "1500k")
    site.prepare()
    big = site.root / "input" / "www" / "big.bin"
    big.write_bytes(os.urandom(1_200_000))
    said = site.run("run", expect=14)
    assert f"{site.repository}: cannot write an object: " in said.err
    assert "No space left" in said.err
    assert "next: free space" in said.err
    assert site.objects("snapshots") == site.objects("locks") == []
    failed = site.run("status", "--json", expect=None)
    assert failed.code != 0
    big.unlink()
    site.run("run")
    site.run("check", "--read-data")
    site.run("drill", "run")


def test_there_is_not_even_room_for_a_lock(files_only: Site, mount: Mount) -> None:
    site = files_only
    mount(site.repository, "1500k")
    site.prepare()
    site.run("run")
    filler = site.repository / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for command in (["run"], ["check"], ["prune", "--apply"], ["drill", "run"]):
        said = site.run(*command, expect=14)
        assert "No space left" in said.err
        assert str(site.repository) in said.err
    filler.unlink()
    site.run("run")
    site.run("check", "--read-data")


def test_staging_is_full(files_only: Site, mount: Mount) -> None:
    site = files_only
    mount(site.root / "staging", "300k")
    site.prepare()
    site.run("run")
    said = site.run("drill", "run", "--json", expect=5)
    finished = said.line("finished")
    assert finished["verdict"] == "inconclusive"
    assert [one.name for one in (site.root / "staging").iterdir()] == ["backupctl-staging.json"]
    site.run("check", "--read-data")


def test_the_restore_target_is_full(files_only: Site, mount: Mount) -> None:
    site = files_only
    site.prepare()
    site.run("run")
    mount(site.root / "small", "300k")
    said = site.run("restore", "--into", "small/back", expect=3)
    assert "bytes free" in said.err
    assert "No space left on device" in said.err
    assert "picture.bin" in said.text, "each path that is missing is named"
