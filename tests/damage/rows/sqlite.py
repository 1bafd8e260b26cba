from tests.damage.matrix import Case

SOURCE = "SQLite"
HEALTHY_ROUNDS = 2
CASES = (
    Case("copying process killed", "run", "incomplete", 3, "shop.db ended with exit status 137"),
    Case("copy cut in half, exit status 0", "run", "incomplete", 3, "shop.db ended after"),
    Case("one flipped byte in a page", "run", "failed", 1, "shop.db"),
    Case("no database any more", "run", "failed", 1, "not a database"),
    Case("wrong key", "run", "failed", 12, "repository"),
    Case("one row changed", "drill", "fail", 4, "orders: expected", 3, together=True),
    Case("one row missing", "drill", "fail", 4, "items: expected", 3, together=True),
    Case("one table missing", "drill", "fail", 4, "parts: expected", 3, together=True, also=("schema",)),
    Case("one flipped byte in the restored page", "drill", "fail", 4, "shop.db", 3),
    Case("full disk on staging", "drill", "inconclusive", 5, "4096 free", 0),
    Case("stale backup", "drill", "stale", 6, "nothing recent to test", 4),
)
