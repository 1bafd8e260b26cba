from tests.damage.matrix import Rows, differs, failed

ROWS = Rows(
    "MariaDB, physical",
    (
        failed("backup process killed", "the stream of mariadb-backup ended with exit status 137"),
        failed("stream cut in half, exit status 0", "the stream of mariadb-backup ends"),
        failed("one flipped byte in the stream", "a checksum does not match"),
        failed("no word of success, exit status 0", "has no 'completed OK!' at its end"),
        failed("one flipped byte in a page of the source", "Index for table 'torn' is corrupt"),
        failed("binary log purged during the backup", "is purged already"),
        failed("one flipped byte in a binary log", "the checksum of an event does not match"),
        differs("one row changed", "table damaged.orders"),
        differs("one table missing", "table damaged.parts", also=("schema of", "tables in")),
        differs("role missing", "account 'clerks'", also=("account 'root'@'localhost'",)),
        differs("one flipped byte in a restored page", "damaged/orders.ibd", level=2, together=False),
    ),
)
