from tests.damage.matrix import Case

SOURCE = "PostgreSQL, logical dump"
CASES = (
    Case("dump process killed", "run", "incomplete", 3, "PostgreSQL database damaged ended with exit status 137"),
    Case("connection cut at a byte", "run", "failed", 1, "server closed the connection unexpectedly"),
    Case("dump cut short, exit status 0", "run", "incomplete", 3, "pg_restore: error: could not read from input file"),
    Case("globals cut short, exit status 0", "run", "failed", 1, "globals have no end"),
    Case("client older than the server", "run", "failed", 1, "newest pg_dump there is 9"),
    Case("wrong key", "run", "failed", 12, "repository"),
    Case("dump damaged on its way, unnoticed", "drill", "fail", 4, "dump of database damaged", 2),
    Case("one row changed", "drill", "fail", 4, "table damaged.public.orders", 3, together=True),
    Case("one row missing", "drill", "fail", 4, "table damaged.public.items", 3, together=True),
    Case("one table missing", "drill", "fail", 4, "table damaged.public.parts", 3, together=True, also=("schema of",)),
    Case("role missing", "drill", "fail", 4, "role clerks", 3, together=True),
    Case("sequence reset", "drill", "fail", 4, "sequence damaged.public.tickets", 3, together=True),
    Case("wrong encoding", "drill", "fail", 4, "table damaged.public.texts", 3, together=True),
    Case("wrong time zone", "drill", "fail", 4, "table damaged.public.times", 3, together=True),
    Case("full disk on staging", "drill", "inconclusive", 5, "4096 free", 0),
    Case("server that will not start", "drill", "inconclusive", 5, "disk is on strike", 0),
    Case("stale backup", "drill", "stale", 6, "nothing recent to test", 4),
)
