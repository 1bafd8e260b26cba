"""What an isolated staging host must not reach, gathered from the configuration."""

from __future__ import annotations

from pathlib import Path

from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.operations.production import addresses, resolved

CONFIG = """\
version: 1
catalog: postgresql+psycopg://backupctl@catalog.internal/fleet
repositories:
  main: {storage: {local: {path: repository}}, password: {file: key}}
  offsite: {storage: {s3: {bucket: one, endpoint: "https://s3.internal"}}, password: {file: key}}
  beside: {storage: {s3: {bucket: two, endpoint: "https://s3.internal:443/"}}, password: {file: key}}
  vault: {storage: {s3: {bucket: three, endpoint: "https://vault.internal:9000"}}, password: {file: key}}
  cloud: {storage: {s3: {bucket: four, region: eu-central-1}}, password: {file: key}}
hosts:
  web1: {ssh: {address: web1.internal, user: backup, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}
  staging:
    ssh: {address: 10.0.0.9, user: drill, port: 2222, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
    role: staging
    scratch: /srv/staging
    isolated: true
jobs:
  site:
    repository: main
    objectives: {rpo: 24h, rto: 2h}
    sources:
      files: {files: {host: web1, paths: [/srv/www]}}
      socket: {postgresql: {host: web1, conninfo: "port=5433 user=backup"}}
      far: {postgresql: {host: web1, conninfo: "host = 'db1.internal,db2.internal' port=5432,5555"}}
      number: {postgresql: {host: web1, conninfo: "host=db3.internal hostaddr=10.0.0.3 user=b"}}
      shop: {mariadb: {host: web1, socket: /run/mysqld/mysqld.sock, user: backup}}
      till: {mariadb: {address: till.internal, port: 3307, user: backup}}
      cache: {redis: {host: web1, address: 127.0.0.1}}
      here: {postgresql: {conninfo: "host=/run/postgresql"}}
      rehearsed: {postgresql: {host: staging, conninfo: "host=localhost"}}
"""


def settings(root: Path) -> Settings:
    (root / "backupctl.yaml").write_text(CONFIG)
    return load(root / "backupctl.yaml")


def test_all_that_listens_in_production_is_known(tmp_path: Path) -> None:
    assert addresses(settings(tmp_path)) == {
        ("web1.internal", 22): "web1",
        ("web1.internal", 5433): "source site/socket",
        ("db1.internal", 5432): "source site/far",
        ("db2.internal", 5555): "source site/far",
        ("db3.internal", 5432): "source site/number",
        ("10.0.0.3", 5432): "source site/number",
        ("web1.internal", 3306): "source site/shop",
        ("till.internal", 3307): "source site/till",
        ("web1.internal", 6379): "source site/cache",
        ("s3.internal", 443): "repository offsite",
        ("vault.internal", 9000): "repository vault",
        ("s3.eu-central-1.amazonaws.com", 443): "repository cloud",
        ("catalog.internal", 5432): "catalog",
    }


def test_a_store_that_the_staging_host_reads_itself_is_left_out_whatever_else_is_there(tmp_path: Path) -> None:
    found = addresses(settings(tmp_path), ["main", "beside"])
    assert ("s3.internal", 443) not in found, "no connection tells one bucket from another"
    assert ("vault.internal", 9000) in found


def test_names_count_with_the_addresses_that_this_machine_knows() -> None:
    found = resolved({("localhost", 22): "web1", ("no.such.name.invalid", 22): "web2", ("10.0.0.3", 22): "web3"})
    assert found["localhost:22"] == found["127.0.0.1:22"] == "web1"
    assert {place for place, what in found.items() if what != "web1"} == {"no.such.name.invalid:22", "10.0.0.3:22"}
