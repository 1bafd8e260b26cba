from tests.damage.matrix import Case

SOURCE = "MariaDB, physical"
CASES = (
    Case("backup process killed", "run", "failed", 1, "the stream of mariadb-backup ended with exit status 137"),
    Case("stream cut in half, exit status 0", "run", "failed", 1, "the stream of mariadb-backup ends"),
    Case("one flipped byte in the stream", "run", "failed", 1, "a checksum does not match"),
    Case("no word of success, exit status 0", "run", "failed", 1, "has no 'completed OK!' at its end"),
    Case("one flipped byte in a page of the source", "run", "failed", 1, "Index for table 'torn' is corrupt"),
    Case("binary log purged during the backup", "run", "failed", 1, "is purged already"),
    Case("one flipped byte in a binary log", "run", "failed", 1, "the checksum of an event does not match"),
    Case("one row changed", "drill", "fail", 4, "table damaged.orders", 3, together=True),
    Case(
        "one table missing",
        "drill",
        "fail",
        4,
        "table damaged.parts",
        3,
        together=True,
        also=("schema of", "tables in"),
    ),
    Case(
        "role missing", "drill", "fail", 4, "account 'clerks'", 3, together=True, also=("account 'root'@'localhost'",)
    ),
    Case("one flipped byte in a restored page", "drill", "fail", 4, "damaged/orders.ibd", 2),
)
