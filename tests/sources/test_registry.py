"""Every kind of source can be made from its options, and only from its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backupctl.errors import ConfigError
from backupctl.sources.registry import SOURCE_KINDS, make_source

SAMPLES = {
    "files": {"paths": ["/srv"]},
    "mariadb": {"socket": "/run/mysqld/mysqld.sock"},
    "mysql": {"socket": "/run/mysqld/mysqld.sock"},
    "postgresql": {"conninfo": "port=5432"},
    "redis": {"socket": "/run/redis/redis.sock"},
    "software": {"trees": ["/etc"]},
    "sqlite": {"path": "/srv/a.db"},
}


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_made_from_its_options(kind):
    model, source = SOURCE_KINDS[kind]
    made = make_source("name", kind, model(**SAMPLES[kind]), secrets=lambda ref: b"")
    assert isinstance(made, source)
    assert (made.name, made.kind) == ("name", kind)
    assert "host" in model.model_fields


def test_refusals():
    model, _ = SOURCE_KINDS["sqlite"]
    with pytest.raises(ConfigError, match="one of: files, mariadb, mysql, postgresql, redis, software, sqlite"):
        make_source("name", "oracle", model(path="/a"), secrets=lambda ref: b"")
    with pytest.raises(ConfigError, match="MariadbOptions"):
        make_source("name", "mariadb", model(path="/a"), secrets=lambda ref: b"")


def test_kinds_are_imported_when_used():
    program = (
        "import sys, backupctl.sources.registry; print([m for m in sys.modules if m.startswith('backupctl.sources.')])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "sqlite" not in printed
    assert "mariadb" not in printed
