from tests.damage.matrix import FULL_DISK, NO_START, STALE, WRONG_KEY, Rows, differs, failed, in_a_soak, incomplete

ROWS = Rows(
    "MySQL, logical dump",
    (
        failed("dump process killed", "MySQL database damaged ended with exit status 137"),
        in_a_soak(failed("connection cut at a byte", "Lost connection")),
        in_a_soak(failed("dump cut in half, exit status 0", "database damaged has no `-- Dump completed` at its end")),
        in_a_soak(incomplete("one of several databases cannot be dumped", "schema of database leads: exit status 2")),
        failed("definitions changed during the dump", "Error in field count for table: `parts`"),
        in_a_soak(failed("client older than the server", "mysqldump 8.4.3 is older than the server")),
        in_a_soak(WRONG_KEY),
        differs("one row changed", "table damaged.orders"),
        differs("one row missing", "table damaged.items: expected 3 rows"),
        differs(
            "one table missing", "table damaged.parts: expected 2 rows", also=("schema of damaged", "tables in damaged")
        ),
        differs("role missing", "account 'clerks'@'%': expected"),
        differs("wrong encoding", "table damaged.texts"),
        differs("wrong time zone", "table damaged.times"),
        in_a_soak(FULL_DISK),
        in_a_soak(NO_START),
        in_a_soak(STALE),
    ),
)
