from tests.damage.matrix import FULL_DISK, NO_START, STALE, WRONG_KEY, Rows, differs, failed, in_a_soak, incomplete

ROWS = Rows(
    "PostgreSQL, table by table in key order",
    (
        incomplete("process that reads a table killed", "orders"),
        failed("connection cut at a byte", "server closed the connection unexpectedly"),
        incomplete("schema cut short, exit status 0", "pg_restore: error"),
        failed("globals cut short, exit status 0", "globals have no end"),
        failed("client older than the server", "newest pg_dump there is 9"),
        WRONG_KEY,
        differs("rows lost on their way, unnoticed", "table damaged.public.orders", together=False),
        differs("table cut short on its way, unnoticed", "orders", level=2, together=False),
        differs("one row changed", "table damaged.public.orders"),
        differs("one row missing", "table damaged.public.items"),
        differs("one table missing", "table damaged.public.parts", also=("schema of",)),
        differs("role missing", "role clerks"),
        differs("sequence reset", "sequence damaged.public.tickets"),
        differs("wrong encoding", "table damaged.public.texts"),
        differs("wrong time zone", "table damaged.public.times"),
        in_a_soak(FULL_DISK),
        in_a_soak(NO_START),
        in_a_soak(STALE),
    ),
)
