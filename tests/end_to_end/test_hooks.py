"""Commands around a run, and snapshots of file systems, through the command line."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.site import Site

KILL_THE_RUN = "read _ _ _ run _ < /proc/$PPID/stat; kill -9 $run; sleep 100"  # its parent is our supervisor


def noting(path: Path, words: str) -> str:
    return f"[sh, -c, 'echo {words} >> {path}']"


def test_hooks_run_in_their_places_and_after_failures_too(site: Site) -> None:
    log = site.root / "log"
    (site.root / "token").write_text("s3cret-token\n")
    (site.root / "token").chmod(0o600)
    hooks = f"- {{before: run, command: {noting(log, 'before $BACKUPCTL_JOB')}}}\n"
    hooks += f"- {{before: run, command: [sh, -c, 'cat >> {log}; echo >> {log}'], stdin: {{file: ../token}}}}\n"
    hooks += f"- {{after: run, command: {noting(log, 'after $BACKUPCTL_STATE')}}}\n"
    site.configure(job="hooks:\n" + hooks)
    said = site.run("run", "--json")
    assert said.line("finished")["state"] == "complete"
    assert log.read_text().splitlines() == ["before site", "s3cret-token", "after complete"]
    assert "s3cret-token" not in said.text

    log.unlink()
    site.configure(job=f"hooks:\n{hooks}- {{before: run, command: [sh, -c, 'echo the reason >&2; exit 9']}}\n")
    failed = site.run("run", "--json", expect=1)
    assert failed.line("finished")["state"] == "failed"
    assert "the reason" in failed.text
    assert "nothing was read" in failed.text
    assert log.read_text().splitlines() == ["before site", "s3cret-token", "after failed"]
    assert not [line for line in failed.lines if line["type"] == "source"]

    site.configure(job="hooks:\n- {after: run, command: ['false']}\n- {after: run, command: ['true']}\n")
    warned = site.run("run", "--json", expect=3)
    assert warned.line("finished")["state"] == "complete"
    assert "hook after" in warned.line("warning")["message"]
    assert "no host 'web9'" in _misconfigured(site, "{before: run, host: web9, command: [x]}")
    assert "either `before: run` or `after: run`" in _misconfigured(site, "{command: [x]}")


def _misconfigured(site: Site, hook: str) -> str:
    site.configure(job=f"hooks:\n- {hook}\n")
    return site.run("config", "validate", expect=13).err


def test_a_snapshot_that_a_killed_run_left_is_found(site: Site) -> None:
    live, snapshot = site.root / "input" / "www", site.root / "snapshot"

    def configure(create: str) -> None:
        places = f"of: {live}, at: {snapshot}, remove: [rm, -rf, {snapshot}]"
        site.sources = {"www": f"{{files: {{paths: [{live}], snapshot: {{{places}, create: {create}}}}}}}"}
        site.configure()

    configure(f"[[cp, -a, {live}, {snapshot}], [sh, -c, '{KILL_THE_RUN}']]")
    site.run("run", expect=None)
    assert (snapshot / "index.html").exists()
    (live / "index.html").write_text("changed since")
    configure(f"[cp, -a, {live}, {snapshot}]")
    said = site.run("run", "--json", expect=3)
    assert said.line("finished")["state"] == "complete"
    assert "left from a run that was killed: removed" in said.line("warning")["message"]
    assert not snapshot.exists()
    site.run("restore", "--into", str(site.root / "back"))
    restored = site.root / "back" / "www" / str(live).lstrip("/")
    assert (restored / "index.html").read_text() == "changed since"
    assert not snapshot.exists()
    assert site.run("run", "--json").line("finished")["new_files"] == 0  # the paths are those of the files themselves
