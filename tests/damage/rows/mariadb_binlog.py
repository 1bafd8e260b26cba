from tests.damage.matrix import Case

SOURCE = "MariaDB, binary logs"
CASES = (
    Case("reading process killed", "run", "failed", 1, "binary log bin.000003 ended with exit status 137"),
    Case("log cut in half, exit status 0", "run", "failed", 1, "bin.000003 ends in the middle of the event"),
    Case("one flipped byte on the way", "run", "failed", 1, "the checksum of an event does not match"),
    Case("wrong key", "run", "failed", 12, "repository"),
    Case("one log missing", "drill", "fail", 4, "bin.000002 is missing before bin.000003", 3),
    Case("newest log missing", "drill", "fail", 4, "end of the binary logs", 3),
    Case("one flipped byte in a stored log", "drill", "fail", 4, "binary log bin.000002 is damaged at position", 3),
    Case("stored log cut in half", "drill", "fail", 4, "binary log bin.000002 ends in the middle of the event", 3),
    Case("full disk on staging", "drill", "inconclusive", 5, "4096 free", 0),
    Case("stale backup", "drill", "stale", 6, "nothing recent to test", 4),
)
