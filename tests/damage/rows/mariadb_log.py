from dataclasses import replace

from tests.damage.matrix import WRONG_KEY, Case, Rows, found, read, refused

FIRST, SECOND, THIRD, NEWEST = "bin.000002", "bin.000003", "bin.000004", "bin.000005"
ROWS = Rows(
    "MariaDB, received binary logs",
    (
        found("log missing", f"binary log is missing after {FIRST}:", f"{SECOND} is missing"),
        found("piece of a log missing", f"binary log is missing, {SECOND}:"),
        found(
            "logs in the wrong order, those before not there yet",
            "binary log is missing after bin.000001:",
            f"{FIRST} is missing",
        ),
        found("piece's object cut short", f"binary log that cannot be read, {SECOND}:", "were stored"),
        found(
            "two pieces in each other's place",
            f"binary log that cannot be read, {SECOND}:",
            f"binary log that cannot be read, {THIRD}:",
        ),
        found("log of another server", f"binary log is missing after {FIRST}:", "transactions are missing from"),
        found("piece sealed with another key", f"binary log that cannot be read, {SECOND}:"),
        read("one flipped byte in a piece's object", f"binary log that cannot be read, {SECOND}:"),
        read(
            "one flipped byte in an event, before it was stored",
            f"binary log that cannot be read, {SECOND}:",
            "the checksum of an event",
        ),
        read(
            "log cut short before it was stored",
            f"binary log that cannot be read, {SECOND}:",
            "which its name does not say",
        ),
        refused(
            "other content under a name that is stored",
            "binlog receive",
            f"binary log {NEWEST} is not the one of that name",
        ),
        replace(WRONG_KEY, told_by="check"),
        Case("receiving stopped", "status", "stale", 6, "recoverable up to the last commit"),
    ),
)
