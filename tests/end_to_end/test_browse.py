"""Looking around as a person does at night: what changed, since when, and the content through a pipe."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.end_to_end.site import PROGRAM, Site


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three nights: the page is defaced in the second, `new` is there in the second only."""
    site = Site.create(tmp_path_factory.mktemp("browsed")).prepare()
    www = site.root / "input" / "www"
    site.run("run")
    (www / "index.html").write_text("<h1>defaced</h1>\n")
    (www / "new").write_text("new\n")
    (www / "empty").chmod(0o600)
    site.run("run")
    (www / "new").unlink()
    site.run("run")
    return site


def inside(site: Site, name: str = "") -> str:
    return "/www" + str(site.root / "input" / "www" / name)


def test_looking_needs_no_catalog(browsed: Site) -> None:
    catalog, aside = browsed.root / "catalog.db", browsed.root / "aside.db"
    catalog.rename(aside)
    catalog.mkdir()  # nothing that could be opened as a catalog
    try:
        (newest,) = [line["snapshot"] for line in browsed.run("snapshots", "--json").lines if "snapshot" in line][-1:]
        assert "index.html" in browsed.run("ls", newest, inside(browsed)).out
        assert "index.html" in browsed.run("find", "index.html", "--job", "site").out
        assert browsed.run("diff", newest, newest).out == "no difference\n"
        page = inside(browsed, "index.html")
        refused = browsed.run("dump", newest, page, expect=13)
        assert (refused.out, "catalog" in refused.err) == ("", True), "what is handed out is in the audit trail first"
    finally:
        catalog.rmdir()
        aside.rename(catalog)


def test_diff_of_two_nights_and_of_the_last_two(browsed: Site) -> None:
    first, second, third = (line["snapshot"] for line in browsed.run("snapshots", "--json").lines[:3])
    said = browsed.run("diff", first, second, inside(browsed), "--metadata", "--json")
    found = {line["path"].rpartition("/")[2]: line for line in said.lines if line["type"] == "difference"}
    assert {name: line["change"] for name, line in found.items() if name != "www"} == {
        "index.html": "changed",
        "hard": "changed",
        "new": "added",
        "empty": "metadata",
    }
    assert "mode" in found["empty"]["fields"]
    assert (found["empty"]["old"]["mode"], found["empty"]["new"]["mode"]) == (0o644, 0o600)
    summary = said.line("diff")
    assert (summary["added"]["files"], summary["added"]["bytes"], summary["removed"]["files"]) == (1, 4, 0)
    assert (summary["old"], summary["new"]) == (first, second)

    said = browsed.run("diff", "--job", "site", inside(browsed))
    assert said.out.splitlines()[0] == f"-               -4  {inside(browsed, 'new')}"
    assert second[:8] in said.err
    assert third[:8] in said.err
    assert browsed.run("diff", third, third).out == "no difference\n"
    assert "2 or 3 words" in browsed.run("diff", first, expect=2).err
    browsed.run("diff", first, second, "/nowhere", expect=10)


def test_find_tells_each_version_of_a_file_once(browsed: Site) -> None:
    first, second, third = (line["snapshot"] for line in browsed.run("snapshots", "--json").lines[:3])
    lines = [one for one in browsed.run("find", "INDEX.*", "-i", "--json").lines if one["type"] == "found"]
    assert [(one["snapshot"], one["oldest_snapshot"], one["snapshots"]) for one in lines] == [
        (third, second, 2),
        (first, first, 1),
    ]
    (gone,) = [one for one in browsed.run("find", "www/new", "--json").lines if one["type"] == "found"]
    assert (gone["snapshot"], gone["path"], gone["size"]) == (second, inside(browsed, "new"), 4)
    digest = hashlib.sha256(b"<h1>hello</h1>\n").hexdigest()
    lines = [one for one in browsed.run("find", "--sha256", digest, "--json").lines if one["type"] == "found"]
    assert {(one["snapshot"], one["path"].rpartition("/")[2]) for one in lines} == {
        (first, "index.html"),
        (first, "hard"),
    }
    browsed.run("find", "new", "--since", "2999-01-01", expect=10)
    assert "hexadecimal" in browsed.run("find", "--pack", "zz", expect=2).err


def test_a_damaged_pack_leads_to_its_files(browsed: Site) -> None:
    pack = browsed.objects("data")[0].name
    found = browsed.run("find", "--pack", pack[:12]).out
    assert inside(browsed, "deep/picture.bin") in found
    assert "no pack" in browsed.run("find", "--pack", "00" * 8, expect=10).err


def test_dump_to_a_pipe_to_a_file_and_to_a_reader_that_leaves(browsed: Site) -> None:
    def raw(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [*PROGRAM, "--config", str(browsed.root / "backupctl.yaml"), "dump", *arguments]
        return subprocess.run(command, capture_output=True, cwd=browsed.root, timeout=120)

    picture = (browsed.root / "input/www/deep/picture.bin").read_bytes()
    done = raw("site", inside(browsed, "deep/picture.bin"))
    assert (done.returncode, done.stdout) == (0, picture)
    with tarfile.open(fileobj=io.BytesIO(raw("site", inside(browsed)).stdout)) as unpacked:
        assert {"deep", "deep/picture.bin", "index.html", "hard", "link", "empty"} == set(unpacked.getnames())
        assert unpacked.extractfile("deep/picture.bin").read() == picture  # type: ignore[union-attr]  # it is a file

    said = browsed.run("dump", "site", "--archive", "zip", "-o", "all.zip", "--json").line("dumped")
    assert (said["entries"], said["archive"]) == (11 + len(browsed.root.relative_to("/").parts), "zip")
    assert (browsed.root / "all.zip").stat().st_mode & 0o777 == 0o600
    assert not (browsed.root / "all.zip.partial").exists()
    assert "is there already" in browsed.run("dump", "site", "-o", "all.zip", expect=2).err
    assert "symlink" in browsed.run("dump", "site", inside(browsed, "link"), expect=2).err
    assert "--output" in browsed.run("dump", "site", "--json", expect=2).out

    reader, writer = os.pipe()
    os.close(reader)
    command = [*PROGRAM, "--config", str(browsed.root / "backupctl.yaml"), "dump", "site"]
    gone = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (141, b"")


def test_a_terminal_gets_text_and_nothing_else(browsed: Site) -> None:
    for path, code, wanted in ((inside(browsed, "index.html"), 0, b"defaced"), ("/db/shop.db", 2, b"terminal")):
        terminal, program_side = os.openpty()
        command = [*PROGRAM, "--config", str(browsed.root / "backupctl.yaml"), "dump", "site", path]
        done = subprocess.run(command, stdout=program_side, stderr=program_side, timeout=120)
        os.close(program_side)
        seen = os.read(terminal, 65536)
        os.close(terminal)
        assert done.returncode == code
        assert wanted in seen
        assert b"SQLite" not in seen


def test_a_dump_that_broke_off_has_not_the_name_of_a_whole_one(browsed: Site) -> None:
    pack = browsed.objects("data")[0]
    whole = pack.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    try:
        said = browsed.run("dump", "site", "-o", "broken.tar", expect=4)
    finally:
        pack.write_bytes(whole)
    assert "deep/picture.bin" in said.err
    assert "broken.tar.partial" in said.err
    assert not Path(browsed.root / "broken.tar").exists()
    with pytest.raises(tarfile.ReadError), tarfile.open(browsed.root / "broken.tar.partial") as unpacked:
        for member in (
            unpacked
        ):  # not `extractall`: its `filter` is unknown to Debian 12's Python, its absence deprecated in others
            if (content := unpacked.extractfile(member)) is not None:
                content.read()
