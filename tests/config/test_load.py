from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.config.document import ConfigFaults
from backupctl.config.load import load
from backupctl.errors import ConfigError
from backupctl.sources.registry import SOURCE_KINDS

MAIN = """\
version: 1
defaults: {timezone: Asia/Taipei}
repositories:
  offsite: {storage: {local: {path: repository}}, password: {file: keys/offsite.key}, check: {cron: "0 4 * * 0"}}
hosts:
  web1: {ssh: {address: web1.internal, user: backup, key: {file: ~/id}, jump: bastion}}
  bastion: {ssh: {address: bastion.internal, user: backup, key: {credential: bastion}}}
  staging: {local: {}, role: staging, scratch: ../staging, max_disk: 1GiB}
jobs_dir: jobs
notify: {ops: {heartbeat: {url: {env: PING}}}}
reports: {organisation: 數位局}
"""
JOB = """\
job: website
class: 高
sources:
  db: {sqlite: {path: ../data/site.db}}
  uploads: {files: {host: web1, paths: [/srv/www]}}
repository: offsite
schedule: {cron: "15 2 * * *", jitter: 20m, deadline: 4h}
objectives: {rpo: 24h, rto: 2h}
retention: {keep_daily: 14, keep_within: 30d}
drills:
  monthly:
    on: staging
    cron: "0 10 5 * *"
    probes:
      - {sql: {database: site, query: select 1, equals: 1}}
      - {command: {argv: ["true"]}}
      - {http: {url: "http://127.0.0.1:8080/", contains: ok}}
notify: [ops]
"""


def write(directory: Path, main: str = MAIN, **jobs: str) -> Path:
    (directory / "jobs").mkdir(exist_ok=True)
    for name, text in jobs.items():
        (directory / "jobs" / f"{name}.yaml").write_text(text)
    path = directory / "backupctl.yaml"
    path.write_text(main)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigFaults) as caught:
        load(path)
    assert caught.value.exit_code == 13
    directory = f"{path.parent}{os.sep}"
    return [str(fault).removeprefix(directory) for fault in caught.value.faults]


def test_the_whole_shape_with_absolute_paths(tmp_path: Path) -> None:
    settings = load(write(tmp_path, website=JOB))
    job = settings.jobs["website"]
    assert settings.base == tmp_path and settings.path == tmp_path / "backupctl.yaml"
    assert settings.catalog == f"sqlite:///{tmp_path}/catalog.db"
    local = settings.repositories["offsite"].storage.local
    assert local is not None and local.path == tmp_path / "repository"
    assert settings.repositories["offsite"].password.file == f"{tmp_path}/keys/offsite.key"
    assert settings.hosts["local"].local is not None and settings.hosts["local"].ssh is None
    assert settings.hosts["staging"].scratch == f"{tmp_path.parent}/staging"
    ssh = settings.hosts["web1"].ssh
    assert ssh is not None and ssh.key.file == str(Path("~/id").expanduser())
    assert settings.reports.directory == tmp_path / "reports" and settings.reports.organisation == "數位局"
    assert job.rating == "high" and job.timezone == "Asia/Taipei"
    assert job.schedule is not None and job.schedule.timezone == "Asia/Taipei"
    assert (job.schedule.catch_up, job.schedule.overlap) == ("once", "skip")
    assert (job.schedule.jitter, job.schedule.deadline) == (timedelta(minutes=20), timedelta(hours=4))
    assert (job.objectives.rpo, job.objectives.rto) == (timedelta(days=1), timedelta(hours=2))
    assert job.retention is not None and job.retention.keep_within == timedelta(days=30)
    assert {name: (source.kind, source.host) for name, source in job.sources.items()} == {
        "db": ("sqlite", "local"),
        "uploads": ("files", "web1"),
    }
    assert job.sources["db"].options.model_dump()["path"] == f"{tmp_path}/data/site.db"  # from jobs/, where it stands
    assert [probe.sql is not None for probe in job.drills["monthly"].probes] == [True, False, False]


def test_one_file_may_hold_everything(tmp_path: Path) -> None:
    body = "\n".join(f"    {line}" for line in JOB.replace("job: website\n", "").splitlines())
    main = MAIN.replace("jobs_dir: jobs\n", "") + f"jobs:\n  website:\n{body}\n"
    main += "drills:\n  website/again: {on: staging}\n"
    job = load(write(tmp_path, main)).jobs["website"]
    assert job.job == "website" and list(job.drills) == ["monthly", "again"]
    assert job.sources["db"].options.model_dump()["path"] == f"{tmp_path.parent}/data/site.db"
    listed = MAIN.replace("jobs_dir: jobs\n", "") + "jobs:\n  - " + JOB.replace("\n", "\n    ")
    assert list(load(write(tmp_path, listed)).jobs) == ["website"]


def test_every_fault_at_once_sorted_by_line(tmp_path: Path) -> None:
    main = """\
version: 2
defaults: {timezone: Asia/Taipeh}
repositories:
  offsite:
    storage: {local: {pth: repository}}
    password: hunter2
  offsite: {}
hosts:
  web1: {ssh: {address: a, user: b, key: {file: k}, jump: bastoin}}
  one: {ssh: {address: a, user: b, key: {file: k}, jump: two}}
  two: {ssh: {address: a, user: b, key: {file: k}, jump: one}}
jobs_dir: jobs
notfy: {}
drills: {website/x: {on: web1}, nobody/y: {on: local}, z: {on: local}}
catalog: postgresql://u:hunter2@host/db
database: postgresql+psycopg://host/db
"""
    job = """\
class: hgih
sources:
  a: {sqlite: {path: x.db, hots: web1}}
  b: {fils: {}}
  c: {files: {paths: [/x], host: web2}}
repository: offsit
schedule: {cron: "61 * * * *", jiter: 20m, jitter: soon, timezone: Mars}
objectives: {rpo: 24h}
retention: {}
drills:
  d: {on: local, cron: nightly, probes: [{sql: {query: q}}, {}, {http: {url: "ftp://x"}}]}
notify: [nobody]
erase_after: 5y
copies: [vault]
job: website
"""
    found = faults(write(tmp_path, main, website=job, website2="job: website\n", empty="", list="- a\n"))
    expected = [
        "backupctl.yaml:1:10: version: Input should be 1",
        "backupctl.yaml:2:22: defaults.timezone: is no IANA time zone",
        "backupctl.yaml:5:23: repositories.offsite.storage.local.pth: unknown key; did you mean 'path'?",
        "backupctl.yaml:5:22: repositories.offsite.storage.local.path: is missing",
        "backupctl.yaml:6:15: repositories.offsite.password: a secret is given by reference",
        "backupctl.yaml:7:3: repositories.offsite: this key stands twice",
        "backupctl.yaml:9:59: hosts.web1.ssh.jump: no host 'bastoin'",
        "backupctl.yaml:10:58: hosts.one.ssh.jump: leads round in a circle: one → two → one",
        "backupctl.yaml:11:58: hosts.two.ssh.jump: leads round in a circle",
        "backupctl.yaml:13:1: notfy: unknown key; did you mean 'notify'?",
        "backupctl.yaml:16:1: database: unknown key; did you mean 'catalog'?",
        "backupctl.yaml:14:26: drills.website/x.on: host 'web1' is no staging host",
        "backupctl.yaml:14:33: drills.nobody/y: there is no job 'nobody'",
        "backupctl.yaml:14:56: drills.z: a drill is named JOB/DRILL",
        "jobs/empty.yaml:1:1: is empty",
        "jobs/list.yaml:1:1: must be a mapping",
        "jobs/website.yaml:1:8: class: Input should be 'low', 'medium' or 'high'",
        "jobs/website.yaml:3:28: sources.a.sqlite.hots: unknown key; did you mean 'host'?",
        f"jobs/website.yaml:4:6: sources.b: 'fils' is no kind of source; there are {', '.join(SOURCE_KINDS)}",
        "jobs/website.yaml:5:34: sources.c.files.host: no host 'web2'; did you mean 'web1'?",
        "jobs/website.yaml:6:13: repository: no repository 'offsit'; did you mean 'offsite'?",
        'jobs/website.yaml:7:18: schedule.cron: is no cron expression such as "15 2 * * *": Bad minute',
        "jobs/website.yaml:7:32: schedule.jiter: unknown key; did you mean 'jitter'?",
        "jobs/website.yaml:7:52: schedule.jitter: write a duration such as 24h",
        "jobs/website.yaml:7:68: schedule.timezone: is no IANA time zone",
        "jobs/website.yaml:8:13: objectives.rto: is missing",
        "jobs/website.yaml:9:12: retention: keeps nothing",
        "jobs/website.yaml:11:11: drills.d.on: host 'local' is no staging host; give it `role: staging`",
        "jobs/website.yaml:11:24: drills.d.cron: is no cron expression",
        "jobs/website.yaml:11:48: drills.d.probes.0.sql: expects nothing",
        "jobs/website.yaml:11:61: drills.d.probes.1: give exactly one of sql, command, http, file, fresh, integrity, scan",
        "jobs/website.yaml:11:78: drills.d.probes.2.http.url: String should match",
        "jobs/website.yaml:12:10: notify.0: no channel in `notify` 'nobody'",
        "jobs/website.yaml:13:1: erase_after: unknown key",
        "jobs/website.yaml:14:10: copies.0: no repository 'vault'; there is offsite",
        "jobs/website2.yaml:1:6: job: 'website' is a job already, in ",
        "jobs/website2.yaml:1:1: objectives: is missing",
    ]
    for each in expected:
        assert any(fault.startswith(each) for fault in found), f"{each}\n-- not in --\n" + "\n".join(found)
    lines = [tuple(map(int, m.groups())) for f in found if (m := re.match(r"backupctl\.yaml:(\d+):(\d+):", f))]
    assert lines == sorted(lines)
    assert "hunter2" not in "\n".join(found)


def test_a_copy_is_in_a_repository_of_its_own(tmp_path: Path) -> None:
    main = MAIN.replace(
        "repositories:\n", "repositories:\n  vault: {storage: {local: {path: v}}, password: {file: k}}\n"
    )
    assert load(write(tmp_path, main, website=JOB + "copies: [vault]\n")).jobs["website"].copies == ["vault"]
    found = faults(write(tmp_path, main, website=JOB + "copies: [vault, offsite, vault]\n"))
    assert [fault.split(": ", 1)[1] for fault in found] == [
        f"copies.{number}: {name!r} is named twice: a copy is in a repository of its own"
        for number, name in ((1, "offsite"), (2, "vault"))
    ]


def test_a_catalog_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for url in ("postgresql://u:hunter2@host/db", "postgresql+psycopg://u@host/db?password=hunter2"):
        (fault,) = faults(write(tmp_path, f"version: 1\ncatalog: {url}\n"))
        assert fault.startswith("backupctl.yaml:2:10: catalog: must not hold a password") and "hunter2" not in fault
    for url in ("mysql://host/db", "catalog.db", "sqlite://"):
        (fault,) = faults(write(tmp_path, f"version: 1\ncatalog: {url}\n"))
        assert "must be sqlite:///FILE" in fault
    given = "postgresql+psycopg://u@host/db?passfile=/etc/pgpass"
    assert load(write(tmp_path, f"catalog: {given}\n")).catalog == given
    assert load(write(tmp_path, "catalog: sqlite:////var/c.db\n")).catalog == "sqlite:////var/c.db"
    assert load(write(tmp_path, "catalog: sqlite:///state/c.db\n")).catalog == f"sqlite:///{tmp_path}/state/c.db"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "backupctl.yaml:1:1: is empty"),
        ("# only a comment\n", "backupctl.yaml:1:1: is empty"),
        ("- a\n", "backupctl.yaml:1:1: must be a mapping"),
        ("version: 1\nhosts:\n\tlocal: {}\n", "backupctl.yaml:3:1: a tab cannot indent YAML; use spaces"),
        ("version: 1\nhosts: {a\n", "backupctl.yaml:3:1: is no YAML: "),
        ("version: 1\n---\nversion: 1\n", "backupctl.yaml:2:1: is no YAML: "),
        ("version: 1\nhosts: &a\n  x: *a\n", "backupctl.yaml:2:8: hosts.x: an alias that holds itself"),
        ("version: 1\nhosts: {[a]: b}\n", "backupctl.yaml:2:9: hosts: a key must be a text"),
        ("version: one\n", "backupctl.yaml:1:10: version: Input should be 1"),
        ("hosts: [a]\n", "backupctl.yaml:1:8: hosts: must be a mapping"),
        ("jobs_dir: missing\n", "backupctl.yaml:1:11: jobs_dir: "),
        ("jobs_dir: ''\n", "backupctl.yaml:1:11: jobs_dir: must be a directory of its own"),
        ("jobs: {a: }\n", "backupctl.yaml:1:10: jobs.a: must be a mapping of keys to values"),
        ("reports:\n", "backupctl.yaml:2:1: reports: must be a mapping of keys to values"),
        ("jobs: 3\n", "backupctl.yaml:1:7: jobs: must be a mapping of names to jobs"),
        ("drills: 3\n", "backupctl.yaml:1:9: drills: must be a mapping of JOB/DRILL"),
        ("path: /etc\n", "backupctl.yaml:1:1: path: unknown key"),
        ("reports: {directory: 3}\n", "backupctl.yaml:1:22: reports.directory: "),
        ("a: " + "[" * 3000, "backupctl.yaml:"),
        ("\x01", "backupctl.yaml:1:1: is no YAML"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, text: str, fault: str) -> None:
    found = faults(write(tmp_path, text))
    assert any(each.startswith(fault) for each in found), found


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"version: 1\n# \xff\n")
    assert faults(path) == ["backupctl.yaml:2:1: is no UTF-8 text"]
    path.write_bytes(b"\xef\xbb\xbfversion: 1\n")
    assert load(path).jobs == {}


def test_job_files_are_yaml_files_and_nothing_hidden(tmp_path: Path) -> None:
    path = write(tmp_path, website=JOB)
    (tmp_path / "jobs" / ".website.yaml.swp.yaml").write_text("broken: [")
    (tmp_path / "jobs" / "README.md").write_text("jobs")
    assert list(load(path).jobs) == ["website"]
    (tmp_path / "jobs" / "other.yml").write_text(JOB)
    (fault,) = faults(path)
    assert fault.endswith("jobs/other.yml is not read: job files end in .yaml; rename it")
    (tmp_path / "jobs" / "other.yml").rename(tmp_path / "jobs" / "directory.yaml")
    (tmp_path / "jobs" / "directory.yaml").unlink()
    (tmp_path / "jobs" / "directory.yaml").mkdir()
    assert faults(path) == ["jobs/directory.yaml:1:1: cannot be read: Is a directory"]


@pytest.mark.parametrize("name", ["a/b", "../x", "-rf", "a b", "", "a" * 91, ".hidden"])
def test_names_that_could_be_mistaken(tmp_path: Path, name: str) -> None:
    found = faults(write(tmp_path, website=JOB.replace("job: website", f"job: {name!r}")))
    assert [fault.split(": ")[1] for fault in found] == ["job"], found


def test_far_paths_must_be_absolute(tmp_path: Path) -> None:
    found = faults(write(tmp_path, website=JOB.replace("[/srv/www]", "[www]")))
    assert len(found) == 1 and "uploads.files.paths" in found[0] and "absolute" in found[0]


def test_where_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKUPCTL_CONFIG", raising=False)
    monkeypatch.setattr("backupctl.config.document.USUAL", (Path("backupctl.yaml"), tmp_path / "etc.yaml"))
    with pytest.raises(ConfigError, match=r"no configuration found; looked at .*\n  next: backupctl init"):
        load()
    (tmp_path / "etc.yaml").write_text("version: 1\n")
    assert load().path == tmp_path / "etc.yaml"
    (tmp_path / "backupctl.yaml").write_text("version: 1\n")
    assert load().path == tmp_path / "backupctl.yaml" and load().base == tmp_path
    (tmp_path / "named.yaml").write_text("version: 1\n")
    monkeypatch.setenv("BACKUPCTL_CONFIG", "named.yaml")
    assert load().path == tmp_path / "named.yaml"
    assert load(Path("etc.yaml")).path == tmp_path / "etc.yaml"
    monkeypatch.setenv("BACKUPCTL_CONFIG", "gone.yaml")
    with pytest.raises(ConfigError, match=r"gone\.yaml \(from \$BACKUPCTL_CONFIG\) does not exist"):
        load()
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path)


def test_faults_name_the_file_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "hots: {}\njobs_dir: jobs\n", website="")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigFaults) as caught:
        load(Path("backupctl.yaml"))
    assert str(caught.value).splitlines() == [
        "backupctl.yaml:1:1: hots: unknown key; did you mean 'hosts'?",
        "jobs/website.yaml:1:1: is empty",
        "  next: correct the file and run `backupctl config validate`",
    ]
