"""Alembic's revisions, oldest first. Naming them here lets a start-up see that it is current without Alembic."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
