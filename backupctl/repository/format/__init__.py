"""The restic repository format, version 2, as pure functions over bytes: no I/O, no clock."""


class FormatError(ValueError):
    """Bytes that are not what the format says. The caller knows the object's name and reports it."""
