from tests.damage.matrix import FULL_DISK, NO_START, STALE, WRONG_KEY, Rows, differs, failed, incomplete

ROWS = Rows(
    "MariaDB, logical dump",
    (
        failed("dump process killed", "MariaDB database damaged ended with exit status 137"),
        failed("connection cut at a byte", "Lost connection"),
        failed("dump cut in half, exit status 0", "database damaged has no `-- Dump completed` at its end"),
        incomplete("one of several databases cannot be dumped", "schema of database leads: exit status 2"),
        failed("definitions changed during the dump", "definitions in database damaged changed"),
        failed("one flipped byte in a page", "torn"),
        failed("client older than the server", "mariadb-dump 10.3.1 is older than the server"),
        WRONG_KEY,
        differs("one row changed", "table damaged.orders"),
        differs("one row missing", "table damaged.items: expected 3 rows"),
        differs(
            "one table missing", "table damaged.parts: expected 2 rows", also=("schema of damaged", "tables in damaged")
        ),
        differs("role missing", "account 'clerks': expected", also=("account 'root'@'localhost'",)),
        differs("sequence reset", "sequence damaged.tickets"),
        differs("wrong encoding", "table damaged.texts"),
        differs("wrong time zone", "table damaged.times"),
        FULL_DISK,
        NO_START,
        STALE,
    ),
)
