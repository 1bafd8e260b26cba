from tests.damage.matrix import FULL_DISK, STALE, WRONG_KEY, Rows, differs, failed, incomplete

ROWS = Rows(
    "SQLite",
    (
        incomplete("copying process killed", "shop.db ended with exit status 137"),
        incomplete("copy cut in half, exit status 0", "shop.db ended after"),
        failed("one flipped byte in a page", "shop.db"),
        failed("no database any more", "not a database"),
        WRONG_KEY,
        differs("one row changed", "orders: expected"),
        differs("one row missing", "items: expected"),
        differs("one table missing", "parts: expected", also=("schema",)),
        differs("one flipped byte in the restored page", "shop.db", together=False),
        FULL_DISK,
        STALE,
    ),
    healthy_rounds=2,
)
