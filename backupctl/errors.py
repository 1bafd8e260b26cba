"""Every failure the product can report, with the exit code it ends in.

    UserError                    1   what happened, to which object, and what to type next
    ├── UsageError               2   the command line is wrong
    ├── IncompleteError          3   finished, but not everything could be read
    ├── VerdictError             4   a check or drill says the backup is bad
    ├── CouldNotRunError         5   a check or drill could not run: it says nothing about the backup
    ├── StaleError               6   nothing recent enough, or an objective missed
    ├── NoSuchError             10   no such repository, snapshot, path, job
    ├── LockedError             11   somebody else holds the repository
    ├── WrongKeyError           12   password, key or login refused
    ├── ConfigError             13   configuration invalid
    ├── UnreachableError        14   host unreachable
    │   └── StoreUnreachableError    store unreachable: what is lost is the repository's place, not a source
    ├── ApprovalNeededError     15   a second person has to agree first
    ├── SkippedError            75   skipped on purpose (EX_TEMPFAIL, what cron wrappers expect)
    └── InterruptedRunError    130   stopped by a signal

    StorageError                 1   what a store says about one object, classified once:
    ├── NotFound                     the object does not exist
    ├── Denied                       the store refuses us (policy; no space is `Full`)
    │   └── LoginRefused        12   it does not accept our key, or who we are
    ├── Full                         no space or quota left
    ├── Exists                       `if_absent` and it was there
    ├── Transient                    worth trying again; only the retry wrapper does
    └── Corrupt                      the store answered with something that cannot be right

    DamageError                  4   repository content is not what it must be; names the object
    SourceError                  1   a source could not be read to its proper end; names the source and the object

Anything else that reaches the top is a bug and shows a traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """A failure a person can act on. `next_step` is the command or change that comes next."""

    exit_code = 1
    transient = False  # may be gone when tried again later, with nothing changed by anybody

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class UsageError(UserError):
    exit_code = 2


class IncompleteError(UserError):
    exit_code = 3


class VerdictError(UserError):
    exit_code = 4


class CouldNotRunError(UserError):
    exit_code = 5


class StaleError(UserError):
    exit_code = 6


class NoSuchError(UserError):
    exit_code = 10


class LockedError(UserError):
    exit_code = 11
    transient = True


class WrongKeyError(UserError):
    exit_code = 12


class ConfigError(UserError):
    exit_code = 13


class UnreachableError(UserError):
    exit_code = 14
    transient = True


class StoreUnreachableError(UnreachableError):
    pass


class ApprovalNeededError(UserError):
    exit_code = 15


class SkippedError(UserError):
    exit_code = 75


class InterruptedRunError(UserError):
    exit_code = 130


class StorageError(UserError):
    """`name` is the object's name in the store, `location` says which store."""

    def __init__(self, message: str, *, name: str = "", location: str = "", next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.name = name
        self.location = location


class NotFound(StorageError):
    exit_code = 10


class Denied(StorageError):
    exit_code = 14


class LoginRefused(Denied):
    exit_code = 12


class Full(StorageError):
    exit_code = 14


class Exists(StorageError):
    pass


class Transient(StorageError):
    exit_code = 14
    transient = True


class Corrupt(StorageError):
    exit_code = 4


class DamageError(UserError):
    """Repository content that fails its hash, its seal or its format. `name` names the object."""

    exit_code = 4

    def __init__(self, message: str, *, name: str, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.name = name


class SourceError(UserError):
    """A source that could not be read to its proper end. `source` and `item` name what was lost."""

    def __init__(self, message: str, *, source: str = "", item: str = "", next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.source = source
        self.item = item
