from tests.damage.matrix import Case

SOURCE = "Redis"
CASES = (
    Case("dump process killed", "run", "failed", 1, "RDB of Redis"),
    Case("connection cut at a byte", "run", "failed", 1, "before the end marker"),
    Case("RDB cut in half, exit status 0", "run", "failed", 1, "the RDB of Redis"),
    Case("one flipped byte", "run", "failed", 1, "does not match its checksum"),
    Case("wrong key", "run", "failed", 12, "repository"),
    Case("one value changed", "drill", "fail", 4, "keys of database 0", 3, together=True),
    Case("one key missing", "drill", "fail", 4, "keys of database 1", 3, together=True),
    Case("one database missing", "drill", "fail", 4, "keys of database 2", 3, together=True),
    Case("time to live changed", "drill", "fail", 4, "expiring keys of database 4", 3, together=True),
    Case("function library missing", "drill", "fail", 4, "function libraries", 3, together=True),
    Case("staging server older", "drill", "inconclusive", 5, "has redis server 6.0.16", 0),
    Case("full disk on staging", "drill", "inconclusive", 5, "4096 free", 0),
    Case("server that will not start", "drill", "inconclusive", 5, "disk is on strike", 0),
    Case("stale backup", "drill", "stale", 6, "nothing recent to test", 4),
)
