#!/bin/sh
# Fetch stock restic of newer Debian suites beside the installed one, for the interoperability tests.
# Prints the paths found, colon separated (BACKUPCTL_RESTIC_BINARIES).
set -eu
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/backupctl-tests/restic
found=""
for suite in trixie sid; do
  binary="$cache/$suite/usr/bin/restic"
  [ -x "$binary" ] || sh tools/fetch-debs.sh "$suite" "$cache/$suite" restic || echo "the tests go on without it" >&2
  [ -x "$binary" ] && found="$found${found:+:}$binary"
done
echo "$found"
