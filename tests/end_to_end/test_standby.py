"""A standby through the real command line: it follows, it is judged, and it deletes nowhere else."""

from __future__ import annotations

import json
import os
import subprocess

from backupctl.config.load import load
from backupctl.operations import execute
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from tests.end_to_end.site import Site

STANDBY = "standby:\n  warm: {host: local, jobs: [site], directory: warm, lag: 1h}\n"


def test_a_host_follows_the_backups(site: Site) -> None:
    www = site.root / "input" / "www"
    site.configure(main=STANDBY)
    assert "never" in site.run("standby", "status", expect=6).out
    site.run("run")
    first = site.run("standby", "refresh", "warm", "--json").line("refreshed")
    copy = site.root / "warm" / "files" / "site" / "www" / str(www).lstrip("/")
    assert (copy / "index.html").read_text() == "<h1>hello</h1>\n"
    assert (copy / "index.html").stat().st_ino == (copy / "hard").stat().st_ino
    assert (copy / "link").is_symlink() and first["bytes"] > 700_000
    (www / "new").write_text("new\n")
    (www / "empty").unlink()
    (copy / "by hand").write_text("on the standby, and in no backup")
    site.run("run")
    second = site.run("standby", "refresh", "warm", "--json").line("refreshed")
    assert second["bytes"] < 100_000 and second["removed"] == 2 and second["kept_files"] >= 3
    assert sorted(os.listdir(copy)) == sorted(os.listdir(www))
    again = site.run("standby", "refresh", "warm", "--json").line("refreshed")
    assert (again["files"], again["bytes"], again["removed"]) == (0, 0, 0)

    metrics = site.root / "m.prom"
    state = site.run("status", "--json", "--textfile", str(metrics), expect=None).line("standby")
    assert (state["state"], state["lag_seconds"], state["snapshot"]) == ("ok", 0.0, second["snapshot"])
    assert 'backupctl_standby_lag_seconds{standby="warm",job="site"} 0.0' in metrics.read_text()
    site.configure(main=STANDBY.replace("1h", "1s"))
    site.run("run")
    assert site.run("standby", "status", "--json", expect=6).line("standby")["state"] == "behind"
    site.configure(main="catalog: sqlite:///elsewhere.db\n" + STANDBY)  # as another machine sees it
    assert site.run("standby", "status", "--json").line("standby")["applied"] == second["snapshot_time"]

    lock = site.root / "warm" / "lock"
    with subprocess.Popen(["flock", lock, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        holder.stdout.read(1)
        assert "being refreshed already" in site.run("standby", "refresh", "warm", expect=11).text
        holder.stdin.close()


def test_a_directory_that_is_not_its_own_is_left_alone(site: Site) -> None:
    site.configure(main=STANDBY)
    site.run("run")
    (site.root / "warm").mkdir()
    precious = site.root / "warm" / "precious"
    precious.write_text("x")
    assert "not marked" in site.run("standby", "refresh", "warm", expect=5).text
    assert precious.read_text() == "x"
    precious.unlink()
    site.run("standby", "refresh", "warm")
    marker = site.root / "warm" / "backupctl-standby.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"machine": "another"}))
    assert "another machine" in site.run("standby", "refresh", "warm", expect=5).text
    site.configure(main=STANDBY.replace("warm:", "other:"))
    assert "belongs to standby 'warm'" in site.run("standby", "refresh", "other", expect=5).text


def test_a_standby_that_cannot_be_is_refused(site: Site) -> None:
    site.configure(main="standby:\n  warm: {host: staging, jobs: [sight], directory: warm}\n")
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace('"15 2 * * *"', '"15 2 * * *", then: [refresh]'))
    said = site.run("config", "validate", expect=13).text
    assert "drills delete there" in said and "no job 'sight'" in said and "no standby follows the job" in said


def test_a_run_refreshes_what_follows_its_job(site: Site) -> None:
    standby = "standby:\n  warm: {host: local, jobs: [site], directory: warm}\n"
    site.configure(main=standby + "  other: {host: local, jobs: [site], directory: other}\n")
    site.run("run")
    (site.root / "other").mkdir()
    precious = site.root / "other" / "precious"
    precious.write_text("x")

    def refresh() -> Outcome:
        with Context.open(load(site.root / "backupctl.yaml")) as context:
            queued = context.catalog.enqueue("refresh", "site", context.clock.now(), trigger="after")
            assert queued is not None
            run = context.catalog.claim(queued.id, "test")
            assert run is not None
            outcome = execute.run(context, run)
            context.catalog.finish(
                run.id, run.epoch, outcome.state, exit_code=outcome.exit_code, summary=outcome.summary
            )
        return outcome

    done = refresh()
    assert (done.state, done.exit_code, done.transient) == ("failed", 5, False) and "not marked" in done.message
    assert [one["standby"] for one in done.summary["refreshed"]] == ["warm"], (
        "one that cannot be is no reason to leave out another"
    )
    precious.unlink()
    done = refresh()
    assert (done.state, done.exit_code) == ("complete", 0), done
    assert [one["standby"] for one in done.summary["refreshed"]] == ["warm", "other"]
    assert (site.root / "other" / "files" / "site" / "www").is_dir()
