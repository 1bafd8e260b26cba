"""A real mount through the kernel: what ordinary programs see there, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.site import Said, Site
from tests.end_to_end.trees import tree
from tests.nasty_tree import build_nasty_tree

pytestmark = pytest.mark.servers
DEADLINE_SECONDS = 60


@pytest.fixture(autouse=True)
def _fuse() -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("this machine has no /dev/fuse: a kernel without FUSE, or a container that is not given it")
    try:
        import mfusepy
    except (ImportError, OSError) as error:  # the extra, or libfuse
        if os.environ.get("CI"):
            pytest.fail(f"/dev/fuse is there and FUSE is not installed: {error}")
        pytest.skip(f"FUSE is not installed: {error}")
    assert mfusepy


@contextmanager
def mounted(site: Site, *arguments: str, end: int = signal.SIGTERM) -> Iterator[Path]:
    """Mounted while inside; ended by the signal, which is a proper end."""
    point = site.root / "mounted"
    point.mkdir(exist_ok=True)
    process = site.start("mount", str(point), *arguments)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not os.path.ismount(point):
            assert process.poll() is None, site.ended(process, expect=None).text
            assert time.monotonic() < deadline, "not mounted in time"
        yield point
    finally:
        if process.poll() is None:
            process.send_signal(end)
        said: Said = site.ended(process, expect=0)
    assert not os.path.ismount(point)
    assert list(point.iterdir()) == []
    assert "is unmounted" in said.err
    (site.root / "said").write_text(said.err)


def last_words(site: Site) -> str:
    """What the last mount told."""
    return (site.root / "said").read_text()


def test_ordinary_programs_see_what_was_backed_up(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("the nasty tree has files of other owners: only root can back it up whole")
    origin = site.root / "input" / "nasty"
    origin.mkdir()
    build_nasty_tree(origin)
    site.sources = {"nasty": "{files: {paths: [../input/nasty]}}"}
    site.configure()
    site.run("run")
    with mounted(site) as point:
        assert [one.name for one in point.iterdir()] == ["site"]
        inside = point / "site" / "latest" / "nasty" / str(origin).lstrip("/")
        seen, wanted = tree(inside), tree(origin)
        assert seen.keys() == wanted.keys()
        assert [name for name in wanted if seen[name] != wanted[name]] == []
        copy = site.root / "copy"
        subprocess.run(["cp", "-a", str(inside), str(copy)], check=True, timeout=60)
        copied = tree(copy)
        assert [name for name in wanted if copied[name][:-1] != wanted[name][:-1]] == []
        assert (copy / "links/first").stat().st_ino == (copy / "special/third").stat().st_ino
        found = subprocess.run(["grep", "-rl", "island", str(inside)], capture_output=True, text=True, timeout=60)
        assert found.stdout == f"{inside}/sizes/sparse\n"
        with pytest.raises(OSError, match="Read-only"):
            (inside / "new").touch()
        (lock,) = [one for one in site.run("storage", "locks", "main", "--json").lines if one["type"] == "lock"]
        assert lock["exclusive"] is False, "prune cannot take away what is looked at"
    told = [one for one in site.run("audit", "list", "--json").lines if str(one.get("action", "")).startswith("mount.")]
    assert sorted(one["action"] for one in told) == ["mount.ended", "mount.started"]
    assert {one["subject"] for one in told} == {str(site.root / "mounted")}


def test_ctrl_c_is_a_proper_end_and_damage_is_an_error_that_is_named(site: Site) -> None:
    from ctypes.util import find_library

    if find_library("fuse3") is not None:
        site.environment["FUSE_LIBRARY_NAME"] = "fuse3"  # the test above takes the older library when both are there
    site.run("run")
    input_path = str((site.root / "input" / "www").relative_to("/"))
    content = (site.root / "input/www/deep/picture.bin").read_bytes()
    with mounted(site, "--job", "site", end=signal.SIGINT) as point:
        www = point / "site/latest/www" / input_path
        assert (www / "index.html").read_text() == "<h1>hello</h1>\n"
        with open(www / "deep/picture.bin", "rb") as stream:
            stream.seek(600_000)
            assert stream.read(1000) == content[600_000:601_000]
        pack = site.objects("data")[0]
        data = bytearray(pack.read_bytes())
        for position in range(0, len(data) - 50_000, 10_000):
            data[position] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)
    assert site.run("storage", "locks", "main").out.strip() == "no lock"
    with mounted(site) as point, pytest.raises(OSError, match="Input/output error"):
        (point / "site/latest/www" / input_path / "deep/picture.bin").read_bytes()
    assert "deep/picture.bin" in last_words(site)
    assert f"data/{pack.name[:2]}/{pack.name}" in last_words(site)
