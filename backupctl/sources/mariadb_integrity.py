"""CHECK TABLE over restored databases, table by table, in the server's own words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from backupctl.sources.mariadb_client import identifier, literal
from backupctl.sources.mariadb_instance import client_of
from backupctl.sources.protocol import CheckResult, Instance

SHOWN_CHARS = 500


def examine(name: str, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
    """One result for each database."""
    results = []
    with client_of(instance, name) as client:
        for database in databases:
            tables = client.rows(
                "SELECT table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "  # noqa: S608 - quoted
                f"AND table_schema = {literal(database)} ORDER BY 1;"
            )
            rows: list[list[str]] = []
            for (table,) in tables:
                rows += client.rows(f"CHECK TABLE {identifier(database)}.{identifier(table)} EXTENDED;")
            # table, operation, kind of message, message: `status OK` comes last for a good one
            bad = [
                row for row in rows if row[2].lower() in ("error", "warning") or (row[2] == "status" and row[3] != "OK")
            ]
            shown = "; ".join(f"{row[0]}: {row[3]}" for row in bad)
            results.append(
                CheckResult(
                    f"CHECK TABLE of {database}",
                    f"{len(tables)} tables OK",
                    f"{len(bad)} complaints" if bad else f"{len(tables)} tables OK",
                    not bad,
                    4,
                    0.0,
                    shown[:SHOWN_CHARS],
                    hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
                )
            )
    return results
