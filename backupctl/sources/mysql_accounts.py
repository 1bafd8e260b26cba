"""Accounts, roles and grants of a MySQL server as SQL that leaves existing accounts alone. Its dump program knows no accounts
before version 9, and then none that may exist already; the server itself says what would make them again."""

from __future__ import annotations

import re

from backupctl.sources.mariadb_client import MariadbClient, literal

_NAME = r"`(?:[^`]|``)*`@`(?:[^`]|``)*`"
_CREATE = re.compile(
    rf"CREATE USER (?P<account>{_NAME})(?P<kept>.*?)"
    rf"(?: DEFAULT ROLE (?P<roles>{_NAME}(?:,{_NAME})*))?(?P<rest> REQUIRE .*)"
)


def dump_accounts_of_server(client: MariadbClient) -> bytes:
    """All but the server's own. Raises SourceError, as for an account that is dropped meanwhile."""
    own = ", ".join(map(literal, client.family.own_users))
    named = client.rows(f"SELECT QUOTE(user), QUOTE(host) FROM mysql.user WHERE user NOT IN ({own}) ORDER BY 1, 2;")  # noqa: S608  names that stand in this program
    accounts = [f"{user}@{host}" for user, host in named]
    asked = "".join(f"SHOW CREATE USER {account};\nSHOW GRANTS FOR {account};\n" for account in accounts)
    made, granted, roles = [], [], []
    for row in client.rows(asked) if accounts else []:
        statement = "\t".join(row)
        if found := _CREATE.fullmatch(statement):
            made.append(f"CREATE USER IF NOT EXISTS {found['account']}{found['kept']}{found['rest']}")
            if found["roles"]:  # which must be there, and granted, before
                roles.append(f"ALTER USER {found['account']} DEFAULT ROLE {found['roles']}")
        else:
            granted.append(statement)
    lines = ["-- Accounts, roles and grants", *(f"{one};" for one in (*made, *granted, *roles)), "-- Dump completed"]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
