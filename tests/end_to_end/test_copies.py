"""Copies through the command line: killed anywhere, read back by stock restic, and what saves the day when the primary is
damaged or away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.clock import SystemClock
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.end_to_end.site import Site
from tests.faults.faulty_store import FaultyStore
from tests.faults.inside import InsideSite

VAULT = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"


def with_vault(site: Site) -> None:
    site.configure(job="copies: [vault]\n")
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("hosts:\n", VAULT + "hosts:\n", 1))


@pytest.fixture
def copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InsideSite]:
    """A site with `copies: [vault]` and one run in both."""
    site = InsideSite.start(tmp_path, monkeypatch)
    with_vault(site)
    key = site.root / "vault.key"
    key.touch(0o600)
    key.write_text("of the vault")
    store = LocalStore(site.root / "vault", create=True)
    Repository.create(store, "of the vault", clock=SystemClock(), scrypt_n=1024)  # cheap: not what is tested here
    store.close()
    site.run("run")
    return site


def restic(site: Site, repository: str, *arguments: str) -> str:
    program = shutil.which("restic")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("restic is not installed: `apt-get install restic`")
        pytest.skip("NOT TESTED with stock restic: `apt-get install restic`")
    key = site.root / f"{repository}.key"
    done = subprocess.run(
        [program, "--no-cache", "-r", site.root / repository, "--password-file", key, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def picture(directory: Path) -> bytes:
    (found,) = directory.rglob("picture.bin")
    return found.read_bytes()


def test_stock_restic_checks_restores_and_recognises_a_copy(copying: InsideSite) -> None:
    restic(copying, "vault", "check", "--read-data")
    restic(copying, "vault", "restore", "latest", "--target", str(copying.root / "theirs"))
    assert picture(copying.root / "theirs") == picture(copying.root / "input")
    said = copying.run("status", "--json")
    (copy,) = said.line("status")["copies"]
    assert (copy["repository"], copy["state"], copy["behind"]) == ("vault", "ok", 0)


def test_a_copy_killed_at_every_step_leaves_nothing_half_done_and_goes_on(copying: InsideSite) -> None:
    saved = copying.root / "saved"
    (copying.root / "input" / "www" / "later.bin").write_bytes(os.urandom(300_000))
    (copying.root / "vault").rename(saved)
    copying.run("run", expect=3)

    def reset() -> None:
        shutil.rmtree(copying.root / "vault", ignore_errors=True)
        shutil.copytree(saved, copying.root / "vault")

    def objects(kind: str) -> set[str]:
        return {one.name for one in (copying.root / "vault" / kind).rglob("*") if one.is_file()}

    reset()
    before = objects("snapshots")
    packs_before = objects("data")
    copying.stores.clear()
    copying.run("copy")
    (vault,) = [store for store in copying.stores if store.location.endswith("vault")]
    puts = [name for kind, name in vault.calls if kind == "put"]
    assert [name.split("/")[0] for name in puts if not name.startswith(("locks/", "data/"))] == [
        "index",
        "backupctl",
        "backupctl",
        "snapshots",
    ], "the order of a copy"
    needed = len(objects("data") - packs_before)
    kinds = [name.split("/")[0] for name in puts]
    ends = [number for number in range(1, len(puts)) if kinds[number - 1] != kinds[number]]  # the last put of each kind
    for number in range(1, len(puts) + 1) if os.environ.get("BACKUPCTL_SOAK") == "1" else [*ends, len(puts)]:
        reset()

        def kill(store: FaultyStore, number: int = number) -> None:
            if store.location.endswith("vault"):
                store.at("put", number, lambda: os.kill(os.getpid(), signal.SIGKILL))

        assert copying.forked("copy", sabotage=kill).code == -signal.SIGKILL, puts[number - 1]
        assert objects("snapshots") == before, puts[number - 1]
        sent = objects("data") - packs_before
        copying.run("storage", "unlock", "vault")
        copying.stores.clear()
        copying.run("copy")
        again = {
            name.rpartition("/")[2]
            for store in copying.stores
            for kind, name in store.calls
            if kind == "put" and name.startswith("data/")
        }
        assert len(sent | again) <= needed + 2, "what was sent is not sent again"
        assert not sent & again
        assert len(objects("snapshots")) == len(before) + 1
    assert copying.run("check", "vault", "--read-data").code == 0
    restic(copying, "vault", "check", "--read-data")


def test_a_drill_takes_the_copy_for_what_is_damaged_and_says_so(copying: InsideSite) -> None:
    for pack in copying.objects("data"):
        pack.unlink()
    copying.run("drill", "run", expect=3)
    said = copying.run("drill", "show", "site/full", "--json").line("drill")
    assert (said["verdict"], said["level"], said["repository"]) == ("pass", 4, "main")
    assert "came from vault" in said["reasons"][-1]
    assert "pass, but" in copying.run("status", expect=None).text
    assert copying.run("check", "main", expect=4).code == 4


def test_without_the_primary_a_drill_a_restore_and_a_list_go_on(copying: InsideSite) -> None:
    copying.repository.rename(copying.root / "burnt")
    restored = copying.run("restore", "site", "--into", "back")
    assert "reading from its copy vault" in restored.text
    assert picture(copying.root / "back") == picture(copying.root / "input")
    copying.run("drill", "run", expect=3)
    said = copying.run("drill", "show", "site/full", "--json").line("drill")
    assert (said["verdict"], said["repository"]) == ("pass", "vault")
    assert copying.run("status", expect=14).code == 14


def test_damage_that_no_copy_can_mend_is_still_a_bad_backup(copying: InsideSite) -> None:
    for pack in [*copying.objects("data"), *(copying.root / "vault" / "data").rglob("*")]:
        if pack.is_file():
            pack.unlink()
    copying.run("drill", "run", expect=4)


def test_one_snapshot_by_hand_and_words_that_cannot_be(copying: InsideSite) -> None:
    (line,) = [one for one in copying.run("snapshots", "site", "--json").lines if one["type"] == "snapshot"]
    assert copying.run("copy", "--snapshot", line["snapshot"], "--json").line("copied")["present"] == 1
    copying.run("copy", "--to", "nowhere", expect=10)
    copying.run("copy", "--snapshot", "ffff", expect=10)
    copying.run("copy", "site", "--to", "main", expect=2)
    copying.configure()
    assert "no job names a copy" in copying.run("copy", expect=2).text
    assert "names no copies" in copying.run("copy", "site", expect=2).text


def test_key_rotation_by_the_command_line(copying: InsideSite) -> None:
    plan = copying.run("key", "rotate", "main", "--to", "vault").text
    assert "0 of 1 snapshot to copy" in plan
    assert "in job site: repository: vault" in plan
    copying.run("key", "rotate", "main", "--to", "vault", "--apply")
    assert copying.run("key", "rotate", "main", "--to", "main", expect=2).code == 2


def test_a_second_key_opens_for_us_and_for_stock_restic(copying: InsideSite) -> None:
    copying.run("key", "add", "main", "--password-file", "second.key")
    (second,) = [one for one in copying.run("key", "list", "main", "--json").lines if one.get("opens") is False]
    (first,) = [one for one in copying.run("key", "list", "main", "--json").lines if one.get("opens")]
    copying.run("key", "remove", "main", first["key"], expect=2)
    copying.run("key", "remove", "main", first["key"], "--password-file", "second.key")
    assert len(copying.objects("keys")) == 2, "a plan changes nothing"
    copying.run("key", "remove", "main", first["key"], "--password-file", "second.key", "--apply")
    copying.run("snapshots", "site", expect=12)
    (copying.root / "second.key").rename(copying.root / "repository.key")
    assert copying.run("key", "list", "main", "--json").line("key")["key"] == second["key"]
    copying.run("key", "remove", "main", second["key"], "--apply", expect=2)
    restic(copying, "repository", "check")
