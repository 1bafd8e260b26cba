from tests.damage.matrix import FULL_DISK, STALE, WRONG_KEY, Rows, differs, failed, in_a_soak

ROWS = Rows(
    "MariaDB, binary logs",
    (
        failed("reading process killed", "binary log bin.000003 ended with exit status 137"),
        failed("log cut in half, exit status 0", "bin.000003 ends in the middle of the event"),
        failed("one flipped byte on the way", "the checksum of an event does not match"),
        in_a_soak(WRONG_KEY),
        differs("one log missing", "bin.000002 is missing before bin.000003", together=False),
        differs("newest log missing", "end of the binary logs", together=False),
        differs("one flipped byte in a stored log", "binary log bin.000002 is damaged at position", together=False),
        differs("stored log cut in half", "binary log bin.000002 ends in the middle of the event", together=False),
        in_a_soak(FULL_DISK),
        in_a_soak(STALE),
    ),
)
