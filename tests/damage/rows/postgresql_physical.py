from dataclasses import replace

from tests.damage.matrix import FULL_DISK, NO_START, STALE, WRONG_KEY, Rows, differs, failed, in_a_soak, incomplete

LOG_IS_LACKING = "does not reach"
ROWS = Rows(
    "PostgreSQL, physical and its log",
    (
        failed("connection killed by the server", "the base backup ended early"),
        failed("connection cut at a byte", "the base backup ended early"),
        incomplete("one flipped byte in the stream", "the manifest says"),
        incomplete("one flipped byte in a page of the source", "checksum verification failed"),
        failed("client older than the server", "newest pg_dump there is 9"),
        WRONG_KEY,
        differs("one flipped byte in a restored page", "does not match its backup_manifest", level=2, together=False),
        differs("one row changed", "table damaged.public.orders"),
        differs("one row missing", "table damaged.public.items"),
        differs("one table missing", "table damaged.public.parts", also=("schema of",)),
        differs("role missing", "role clerks"),
        differs("sequence reset", "sequence damaged.public.tickets"),
        differs("wrong encoding", "table damaged.public.texts"),
        differs("wrong time zone", "table damaged.public.times"),
        differs("segment of the log missing", LOG_IS_LACKING, level=0, together=False),
        differs("segment's object damaged", "log segment 0", level=0, together=False),
        differs(
            "one flipped byte in an archived segment", "is not what its length and CRC say", level=0, together=False
        ),
        in_a_soak(FULL_DISK),
        in_a_soak(replace(NO_START, level=2)),
        in_a_soak(STALE),
    ),
)
