from dataclasses import replace

from tests.damage.matrix import WRONG_KEY, Case, Rows, found, read, refused

FIRST, SECOND, THIRD = (f"0000000100000000000000{number}" for number in (26, 27, 28))
BROKEN = "is not what its length and CRC say"
BRANCH = f"00000002{SECOND[8:]}"
ROWS = Rows(
    "PostgreSQL, archived log",
    (
        found("segment missing", f"{SECOND}: log is missing", "1 segment(s)"),
        found("segments in the wrong order, those before not there yet", f"{FIRST}: log is missing", "2 segment(s)"),
        found("segment's object cut short", f"{SECOND}: log that cannot be read", "were stored"),
        found(
            "two segments in each other's place",
            f"{SECOND}: log that cannot be read",
            f"{THIRD}: log that cannot be read",
        ),
        found(
            "segment under a name of another timeline",
            f"{BRANCH}: ",
            "another segment than its name says",
        ),
        found("segment of another server", f"{SECOND}: log that cannot be read", "another server"),
        found("history of a timeline missing", "00000002.history: the history of timeline 2 is missing"),
        found("segment sealed with another key", f"{SECOND}: log that cannot be read"),
        read("one flipped byte in a segment's object", f"{SECOND}: log that cannot be read"),
        read(
            "segment of another timeline in a sound object",
            f"{SECOND}: log that cannot be read",
            f"it holds segment {BRANCH}",
        ),
        Case(
            "one flipped byte in a record, on the way to the archive",
            "wal-push",
            "stored",
            0,
            f"{SECOND} is stored, but the record at",
        ),
        found("one flipped byte in a record, before it was archived", f"{SECOND}: log that cannot be read", BROKEN),
        found(
            "one flipped byte in a record's length, before it was archived",
            f"{SECOND}: log that cannot be read",
            BROKEN,
        ),
        read(
            "one flipped byte in a record, archived by a version that did not look",
            f"{SECOND}: log that cannot be read",
            BROKEN,
        ),
        read(
            "one flipped byte in a record that runs on from the segment before",
            f"{SECOND}: log that cannot be read",
            BROKEN,
        ),
        Case(
            "segment with a broken record, asked how far the log leads",
            "status",
            "stale",
            6,
            f"in {SECOND}, was broken when it was archived",
        ),
        refused("segment cut short before it was archived", "wal-push", f"{SECOND} has"),
        refused(
            "segment of another timeline on the way to the archive",
            "wal-push",
            f"the file called {SECOND} is segment {BRANCH}",
        ),
        refused(
            "other content under a name that is archived",
            "wal-push",
            f"log segment {SECOND} is in the archive with other content",
        ),
        replace(WRONG_KEY, told_by="check"),
        Case("archiving stopped", "status", "stale", 6, "recoverable up to the last commit"),
    ),
)
