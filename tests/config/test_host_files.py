"""Hosts in files of their own, below `hosts_dir`."""

from __future__ import annotations

from pathlib import Path

from backupctl.config.load import load
from tests.config.test_load import faults

MAIN = "version: 1\nhosts_dir: hosts\nhosts: {bastion: {ssh: {address: b, user: backup, key: {file: /k}}}}\n"


def write(directory: Path, main: str = MAIN, **hosts: str) -> Path:
    (directory / "hosts").mkdir(exist_ok=True)
    for name, text in hosts.items():
        (directory / "hosts" / f"{name}.yaml").write_text(text)
    path = directory / "backupctl.yaml"
    path.write_text(main)
    return path


def test_each_file_is_a_host_and_its_paths_start_there(tmp_path: Path) -> None:
    web1 = "host: web1\nssh: {address: web1.internal, user: backup, key: {file: web1.key}, jump: bastion}\n"
    staging = "host: staging\nlocal: {}\nrole: staging\nscratch: ../staging\n"
    settings = load(write(tmp_path, web1=web1, staging=staging))
    assert list(settings.hosts) == ["local", "bastion", "staging", "web1"]
    ssh = settings.hosts["web1"].ssh
    assert ssh is not None and (ssh.key.file, ssh.jump) == (f"{tmp_path}/hosts/web1.key", "bastion")
    assert settings.hosts["staging"].scratch == f"{tmp_path}/staging"


def test_jobs_may_name_them_and_are_told_when_they_are_not_there(tmp_path: Path) -> None:
    job = "job: site\nsources: {www: {files: {host: web1, paths: [/srv/www]}}}\nrepository: main\nobjectives: {rpo: 1d, rto: 1h}\n"
    main = MAIN + "repositories: {main: {storage: {local: {path: r}}, password: {file: k}}}\njobs_dir: jobs\n"
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "site.yaml").write_text(job)
    path = write(tmp_path, main, web1="host: web1\nssh: {address: w, user: u, key: {file: /k}}\n")
    assert load(path).jobs["site"].sources["www"].host == "web1"
    (tmp_path / "hosts" / "web1.yaml").unlink()
    (fault,) = faults(path)
    assert fault.startswith("jobs/site.yaml:2:31: sources.www.files.host: no host 'web1'; there is bastion, local")


def test_every_fault_is_told_where_it_stands(tmp_path: Path) -> None:
    found = faults(
        write(
            tmp_path,
            again="host: bastion\nlocal: {}\n",
            badly="host: a b\nlocal: {}\n",
            jump="host: j\nssh: {address: a, user: u, key: {file: /k}, jump: nowhere}\n",
            nameless="local: {}\n",
            two="host: two\nlocal: {}\nssh: {address: a, user: u, key: {file: /k}}\n",
            typo="host: t\nlocal: {}\nscrach: /s\n",
            user="host: local\nlocal: {}\n",
        )
    )
    starts = [
        "hosts/again.yaml:1:7: host: 'bastion' is a host already, in ",
        "hosts/badly.yaml:1:7: host: is no name of a host",
        "hosts/jump.yaml:2:51: ssh.jump: no host 'nowhere'",
        "hosts/nameless.yaml:1:1: host: is missing: the name of the host",
        "hosts/two.yaml:1:1: a host is either `local: {}` or `ssh: {…}`",
        "hosts/typo.yaml:3:1: scrach: unknown key; did you mean 'scratch'?",
    ]
    assert [any(one.startswith(start) for one in found) for start in starts] == [True] * len(starts), found
    (tmp_path / "hosts" / "other.yml").write_text("host: x\nlocal: {}\n")
    assert any("host files end in .yaml" in one for one in faults(tmp_path / "backupctl.yaml"))
