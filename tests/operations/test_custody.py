"""Pages of shares: written, read, combined; by function and through the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backupctl.errors import ConfigError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.custody import combine_shares, read_share, share_password
from tests.faults.inside import InsideSite


def test_three_of_five_pages_bring_the_password_back(context: Context, tmp_path: Path) -> None:
    files = share_password(context, "main", needed=3, number=5, directory=tmp_path / "pages")
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 5
    password = context.resources.password("main")
    assert not any(password in file.read_text() for file in files)
    back = tmp_path / "main.key"
    combine_shares([files[4], files[0], files[2]], back)
    assert back.read_text() == f"{password}\n"
    assert back.stat().st_mode & 0o777 == 0o600
    (event,) = [one for one in context.catalog.events() if one.action == "key.shared"]
    assert event.detail == {"set": read_share(files[0]).set_id, "needed": 3, "shares": 5}


def test_nothing_is_overwritten_and_nothing_half_written(context: Context, tmp_path: Path) -> None:
    files = share_password(context, "main", needed=2, number=2, directory=tmp_path)
    with pytest.raises(UsageError, match="exists; nothing was written"):
        share_password(context, "main", needed=2, number=3, directory=tmp_path)
    assert not (tmp_path / "recovery-share-main-3.txt").exists()
    there = tmp_path / "there"
    there.write_text("mine")
    with pytest.raises(UsageError, match="exists; nothing was written"):
        combine_shares(files, there)
    with pytest.raises(UsageError, match="too few"):
        combine_shares(files[:1], tmp_path / "new.key")
    assert there.read_text() == "mine"
    assert not (tmp_path / "new.key").exists()


def test_a_page_is_private_and_a_bare_share_is_one_too(context: Context, tmp_path: Path) -> None:
    (file, _) = share_password(context, "main", needed=2, number=2, directory=tmp_path)
    bare = tmp_path / "typed"
    bare.touch(0o600)
    bare.write_text(read_share(file).encode().lower() + "\n")
    assert read_share(bare) == read_share(file)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        read_share(file)
    bare.write_text("no share at all\n")
    with pytest.raises(UsageError, match="typed: a share is cut or mistyped"):
        read_share(bare)


def test_shares_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = InsideSite.start(tmp_path, monkeypatch)
    said = site.run("key", "share", "main", "--shares", "3", "--needed", "2", "--into", "pages")
    pages = [str(path) for path in sorted((site.root / "pages").iterdir())]
    assert len(pages) == 3
    assert all(page in said.out for page in pages)
    assert "3; 2 of its set are needed" not in said.out
    assert "can be read; 2 of its set are needed" in site.run("key", "combine", "--check", *pages).out
    assert "1 shares are too few" in site.run("key", "combine", pages[0], "--password-file", "back", expect=2).text
    assert "--password-file FILE" in site.run("key", "combine", *pages, expect=2).text
    site.run("key", "combine", pages[0], pages[2], "--password-file", "back")
    assert (site.root / "back").read_text() == (site.root / "repository.key").read_text().strip() + "\n"
    shutil.move(site.root / "back", site.root / "repository.key")
    site.run("key", "list", "main")
    assert "is not possible" in site.run("key", "share", "main", "--shares", "2", "--needed", "3", expect=2).text
