from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backupctl.config.load import load
from backupctl.config.schema import schema
from backupctl.config.show import effective, show
from tests.config.test_load import JOB, MAIN, write


def test_show_has_references_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PING", "https://hc.example/hunter2")
    main = MAIN.replace("notify: {", "notify: {chat: {webhook: {url: 'https://chat.example/T0/hunter2'}}, ")
    settings = load(write(tmp_path, main, website=JOB))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "offsite.key").write_text("hunter2")
    text = show(settings)
    assert text.startswith(f"# effective configuration of {tmp_path}/backupctl.yaml\n")
    assert "hunter2" not in text and "url: https://chat.example/…" in text
    assert f"file: {tmp_path}/keys/offsite.key" in text and "env: PING" in text and "class: high" in text
    assert json.loads(json.dumps(effective(settings)))["jobs"]["website"]["objectives"] == {"rpo": "24h", "rto": "2h"}


def test_what_show_prints_is_a_configuration_that_means_the_same(tmp_path: Path) -> None:
    settings = load(write(tmp_path, website=JOB))
    shown = tmp_path / "shown.yaml"
    shown.write_text(show(settings).replace(f"jobs_dir: {tmp_path}/jobs\n", ""))
    assert effective(load(shown)) == {key: part for key, part in effective(settings).items() if key != "jobs_dir"}


def properties(described: dict[str, Any]) -> set[str]:
    return set(described["properties"])


def test_the_schemas_describe_what_load_takes() -> None:
    main, job = schema("main"), schema("job")
    assert properties(main) == {
        *("version", "defaults", "catalog", "repositories", "hosts", "jobs_dir", "jobs", "drills", "notify", "reports"),
        *("cache", "concurrency", "coverage", "fleet", "hosts_dir", "log", "standby", "telemetry"),
    }
    assert {"job", "class", "sources", "objectives", "retention"} < properties(job)
    assert {"host", "ssh", "local", "role", "scratch"} < properties(schema("host"))
    assert schema("host")["required"] == ["host"]
    assert {"job", "sources", "repository", "objectives"} == set(job["required"])
    assert "job" not in main["$defs"]["NamedJob"]["required"]
    assert main["additionalProperties"] is False and job["additionalProperties"] is False
    for described in (main, job):
        assert properties(described["$defs"]["SourceSettings"]) == {
            "files",
            "mariadb",
            "mysql",
            "postgresql",
            "redis",
            "software",
            "sqlite",
        }
        text = json.dumps(described)
        for reference in {part.split('"')[0] for part in text.split("#/$defs/")[1:]}:
            assert reference in described["$defs"]
