"""The main job through the real command line: run, change, run, check, drill, report, restore, rebuild."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

from tests.end_to_end.site import Site


def test_the_whole_way(site: Site) -> None:
    first = site.run("run", "--json").line("finished")
    assert (first["state"], first["exit_code"], first["files"]) == ("complete", 0, 5)
    (site.root / "input" / "www" / "new.txt").write_text("the day after\n")
    second = site.run("run", "site", "--json").line("finished")
    assert second["new_files"] == 1
    assert second["stored_bytes"] < first["stored_bytes"] / 10, "unchanged content is not stored again"
    check = site.run("check", "--read-data", "--json").line("finished")
    assert (check["verdict"], check["snapshots"]) == ("pass", 2)
    assert check["bytes_read"] > 700_000
    drill = site.run("drill", "run", "--json").line("finished")
    assert (drill["verdict"], drill["level"], drill["failed_checks"]) == ("pass", 4, 0)
    assert drill["checks"] >= 4
    assert drill["rto_seconds"] > 0
    assert drill["rpo_seconds"] > 0
    assert drill["cleaned_up"] is True
    shown = site.run("drill", "show", "site/full", "--json").line("drill")
    assert any("orders" in one["name"] and one["ok"] for one in shown["checks"])
    assert [one.name for one in (site.root / "staging").iterdir()] == ["backupctl-staging.json"]
    site.run("report", "recovery", "--format", "json,html")
    (report,) = (site.root / "reports").glob("*.json")
    assert "site/full" in report.read_text()
    assert site.run("status").code == 0


def test_every_line_of_json_output_is_an_object_and_the_last_one_tells_the_exit_code(site: Site) -> None:
    for command in (
        ["run"],
        ["check"],
        ["drill", "run"],
        ["snapshots"],
        ["status"],
        ["config", "show"],
        ["host", "list"],
    ):
        said = site.run(*command, "--json")
        assert said.lines[-1]["type"] == "exit"
        assert said.lines[-1]["code"] == 0
        assert all({"type", "time"} <= set(line) for line in said.lines), command


def test_restored_files_and_database_are_what_they_were(site: Site) -> None:
    site.run("run")
    site.run("restore", "site", "--into", "back")
    www = site.root / "back" / "www" / str((site.root / "input" / "www").relative_to("/"))
    assert (www / "deep" / "picture.bin").read_bytes() == (site.root / "input/www/deep/picture.bin").read_bytes()
    assert (www / "index.html").stat().st_ino == (www / "hard").stat().st_ino
    assert (www / "link").readlink() == Path("index.html")
    assert (www / "index.html").stat().st_mtime_ns == (site.root / "input/www/index.html").stat().st_mtime_ns
    restored = sqlite3.connect(site.root / "back" / "db" / "shop.db")
    assert restored.execute("select count(*), sum(total) from orders").fetchone() == (2000, 2498750.0)


def test_restore_of_one_path_of_an_older_time_and_of_one_database(site: Site) -> None:
    site.run("run")
    old = site.run("snapshots", "--json").lines[0]
    (site.root / "input" / "www" / "index.html").write_text("defaced\n")
    site.run("run")
    path = "www/" + str((site.root / "input" / "www" / "index.html").relative_to("/"))
    site.run("restore", "site", "--at", old["snapshot_time"], "--only", path, "--into", "one")
    assert (site.root / "one" / "index.html").read_text() == "<h1>hello</h1>\n"
    site.run("restore", "site", "--only", "db:shop.db", "--into", "database")
    assert (site.root / "database" / "shop.db").is_file()
    planned = site.run("restore", "site", "--into", "never", "--plan", "--json").line("plan")
    assert planned["files"] == 4, "the hard link is one more link, not one more file"
    assert not (site.root / "never").exists()


def test_retention_is_previewed_and_only_applied_when_told(site: Site) -> None:
    site.configure(job="")
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("keep_daily: 7", "keep_last: 1"))
    site.run("run")
    site.run("run")
    preview = site.run("prune", "--json")
    actions = [line["action"] for line in preview.lines if line["type"] == "retention"]
    assert actions == ["remove", "keep"]
    assert len(site.run("snapshots", "--json").lines) == 3
    site.run("prune", "--apply")
    assert len(site.run("snapshots", "--json").lines) == 2
    assert site.run("check", "--read-data").code == 0
    assert site.run("drill", "run").code == 0


def test_a_held_snapshot_survives_retention(site: Site) -> None:
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("keep_daily: 7", "keep_last: 1"))
    site.run("run")
    oldest = site.run("snapshots", "--json").lines[0]["snapshot"]
    site.run("hold", oldest, "--reason", "court case", "--until", "30d")
    site.run("run")
    site.run("prune", "--apply")
    assert oldest in site.run("snapshots", "--json").out
    site.run("release", oldest)
    site.run("prune", "--apply")
    assert oldest not in site.run("snapshots", "--json").out


def test_the_catalog_comes_back_from_the_repository_alone(site: Site) -> None:
    site.run("run")
    site.run("check", "--read-data")
    site.run("drill", "run")
    before = site.run("drill", "show", "site/full", "--json").line("drill")
    (site.root / "catalog.db").unlink()
    rebuilt = site.run("catalog", "rebuild", "--json").line("rebuilt")
    assert (rebuilt["snapshots"], rebuilt["drills"], rebuilt["checks"], rebuilt["problems"]) == (1, 1, 1, [])
    after = site.run("drill", "show", "site/full", "--json").line("drill")
    del before["time"], after["time"]
    assert after == before
    assert site.run("status").code == 0


def test_due_runs_from_cron_and_the_audit_trail(site: Site) -> None:
    assert site.run("run", "--due").code == 0, "a job seen for the first time owes nothing"
    assert site.run("snapshots").out.strip() == "no snapshot"
    site.run("run")
    said = site.run("audit", "verify", "--json").line("audit")
    assert said["problems"] == []
    assert said["events"] >= 2
    catalog = sqlite3.connect(site.root / "catalog.db")
    catalog.execute("update events set subject = 'somebody else' where number = 1")
    catalog.commit()
    catalog.close()
    assert site.run("audit", "verify", expect=4).code == 4


def test_losing_one_source_makes_the_run_incomplete_and_nothing_hides_it(site: Site) -> None:
    site.run("run")
    (site.root / "input" / "shop.db").write_bytes(b"this is no database")
    said = site.run("run", "--json", expect=3)
    finished = said.line("finished")
    assert finished["state"] == "incomplete"
    assert any(line["type"] == "problem" and line.get("source") == "db" for line in said.lines)
    snapshots = [line["status"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    assert snapshots == ["complete", "incomplete"]
    drill = site.run("drill", "run", "--json").line("finished")
    assert drill["verdict"] == "pass", "the drill takes the newest complete snapshot"
    shutil.rmtree(site.root / "input")
    said = site.run("run", "--json", expect=(1, 3))
    assert said.line("finished" if said.code == 3 else "exit")


def test_schema_and_show_hold_no_secret(site: Site) -> None:
    secret = (site.root / "repository.key").read_text().strip()
    shown = site.run("config", "show").out + site.run("config", "show", "--json").out
    assert secret not in shown
    assert "repository.key" in shown
    json.loads(site.run("config", "schema", "job").out)
