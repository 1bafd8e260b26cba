from tests.damage.matrix import FULL_DISK, NO_START, STALE, WRONG_KEY, Rows, differs, failed, untried

ROWS = Rows(
    "Redis",
    (
        failed("dump process killed", "RDB of Redis"),
        failed("connection cut at a byte", "before the end marker"),
        failed("RDB cut in half, exit status 0", "the RDB of Redis"),
        failed("one flipped byte", "does not match its checksum"),
        WRONG_KEY,
        differs("one value changed", "keys of database 0"),
        differs("one key missing", "keys of database 1"),
        differs("one database missing", "keys of database 2"),
        differs("time to live changed", "expiring keys of database 4"),
        differs("function library missing", "function libraries"),
        untried("staging server older", "has redis server 6.0.16"),
        FULL_DISK,
        NO_START,
        STALE,
    ),
)
