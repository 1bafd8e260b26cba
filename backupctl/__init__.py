"""backupctl: nightly backups of files and databases, and the proof that they can be restored."""

__version__ = "0.1.0"
