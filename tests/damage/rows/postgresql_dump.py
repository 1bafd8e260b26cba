from tests.damage.matrix import FULL_DISK, NO_START, STALE, WRONG_KEY, Rows, differs, failed, incomplete

ROWS = Rows(
    "PostgreSQL, logical dump",
    (
        incomplete("dump process killed", "PostgreSQL database damaged ended with exit status 137"),
        failed("connection cut at a byte", "server closed the connection unexpectedly"),
        incomplete("dump cut short, exit status 0", "pg_restore: error: could not read from input file"),
        failed("globals cut short, exit status 0", "globals have no end"),
        failed("client older than the server", "newest pg_dump there is 9"),
        WRONG_KEY,
        differs("dump damaged on its way, unnoticed", "dump of database damaged", level=2, together=False),
        differs("one row changed", "table damaged.public.orders"),
        differs("one row missing", "table damaged.public.items"),
        differs("one table missing", "table damaged.public.parts", also=("schema of",)),
        differs("role missing", "role clerks"),
        differs("sequence reset", "sequence damaged.public.tickets"),
        differs("wrong encoding", "table damaged.public.texts"),
        differs("wrong time zone", "table damaged.public.times"),
        FULL_DISK,
        NO_START,
        STALE,
    ),
)
