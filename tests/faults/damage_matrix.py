"""What every command says about every kind of damage: exit codes, held true by `test_damage.py`.

python -m tests.faults.damage_matrix > docs/reference/damage-matrix.md
"""

from __future__ import annotations

import sys

COMMANDS = (
    "check",
    "check --read-data",
    "drill run",
    "restore newest",
    "restore previous",
    "next run",
    "drill after it",
)
DAMAGES = ("one flipped bit", "cut in half", "deleted", "zero length")
_SHUT = (4,) * 7
_LOCKED = (11,) * 7
_HARMLESS = (0,) * 7
_ROWS: dict[str, tuple[tuple[int, ...], ...]] = {
    "config": (_SHUT,) * 4,
    "key": (_SHUT,) * 4,
    "index": ((4, 4, 0, 0, 0, 0, 0),) * 4,
    "snapshot": ((4, 4, 4, 4, 0, 0, 4), (4, 4, 4, 4, 0, 0, 4), _HARMLESS, (4, 4, 4, 4, 0, 0, 4)),
    "data pack": ((0, 4, 4, 3, 0, 0, 0), *((4, 4, 4, 3, 0, 0, 0),) * 3),
    "tree pack": ((4, 4, 4, 3, 0, 0, 0), *((4, 4, 4, 4, 0, 0, 0),) * 3),
    "fingerprint": ((4, 4, 4, 0, 0, 0, 0),) * 4,
    "manifest": ((4, 4, 4, 0, 0, 0, 0),) * 4,
    "lock": (_LOCKED, _LOCKED, _HARMLESS, _HARMLESS),
}
KINDS = tuple(_ROWS)
EXPECTED = {(kind, how): codes for kind, rows in _ROWS.items() for how, codes in zip(DAMAGES, rows, strict=True)}

BY_CHANCE = {("tree pack", "cut in half", "restore newest"): 3}
"""Where a directory lies in its pack is drawn by lot: half a pack may still hold the topmost one, then the rest restores."""

NAMED_OTHERWISE = {("key", "deleted"): "keys/", ("index", "deleted"): "is in no index"}
"""An object that is gone cannot always be named: nothing in the repository says what it was called."""

NOTES = """\
The damaged object belongs to the newer of two snapshots. Exit codes: 0 fine, 3 restored with the loss named, 4 damaged,
11 locked. Every code but 0 comes with the name of the object. A wrong password is exit code 12 everywhere.

- **config, key**: nothing can be opened without them. Put the file back from a copy of the repository; everything is
  then as it was. Keep a copy of both files with the password.
- **index**: an index is a table of contents. Reading finds what it listed in the packs themselves, a run lists it anew;
  `check` says `fail` until `backupctl repair index --apply` has written a new one.
- **snapshot**: older snapshots restore by their id. A drill says `fail` as long as any snapshot is unreadable. A *deleted*
  snapshot leaves no trace in a repository: `backupctl status` judges what should be there.
- **packs**: a flipped bit in a data pack is found by reading: `check --read-data` or a drill. The next run stores again
  what lay in packs that are gone, cut, or known as bad from a check, as far as the source still has it; older snapshots
  that need the same content are whole again with it. `prune --apply` then clears the damaged pack away; it deletes nothing
  as long as some snapshot needs what only that pack held. `backupctl repair packs` takes it from a copy, `backupctl repair
  snapshots` saves what is left where there is none.
- **fingerprint, manifest**: the data restores; a drill cannot compare it and says `fail`. The next run reads every file.
- **lock**: nobody can tell who holds an unreadable lock, so everybody waits. It is removed when it is 30 minutes old. An
  empty one is the trace of a crash and is ignored.
"""


def markdown() -> str:
    lines = ["# Damage matrix", "", "<!-- written by tests/faults/damage_matrix.py -->", "", NOTES]
    lines += ["| object | damage | " + " | ".join(COMMANDS) + " |"]
    lines += ["|---|---|" + "---|" * len(COMMANDS)]
    for (kind, how), codes in EXPECTED.items():
        cells = [
            f"{BY_CHANCE[kind, how, command]} or {code}" if (kind, how, command) in BY_CHANCE else str(code)
            for command, code in zip(COMMANDS, codes, strict=True)
        ]
        lines.append(f"| {kind} | {how} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
