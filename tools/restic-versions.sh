#!/bin/sh
# Fetch stock restic of newer Debian suites beside the installed one, for the interoperability tests.
# Uses the mirror this machine's apt already uses; nothing is installed system-wide.
# Prints the paths found, colon separated (BACKUPCTL_RESTIC_BINARIES).
set -eu
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/backupctl-tests/restic
mkdir -p "$cache"
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' | grep -v security | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
found=""
for suite in trixie sid; do
  binary="$cache/$suite/usr/bin/restic"
  if [ ! -x "$binary" ] && [ -n "$mirror" ]; then
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/empty"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" > "$work/sources.list"
    set -- -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/empty" -o "Dir::State::lists=$work/lists" \
      -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=" -o "Acquire::Languages=none" -o "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"
    if (cd "$work" && apt-get "$@" -qq update && apt-get "$@" -qq download restic) >"$work/log" 2>&1; then
      mkdir -p "$cache/$suite"
      dpkg-deb -x "$work"/restic_*.deb "$cache/$suite"
    else
      echo "restic of $suite could not be fetched; the tests go on without it: $(tail -n 1 "$work/log")" >&2
    fi
    rm -rf "$work"
  fi
  [ -x "$binary" ] && found="$found${found:+:}$binary"
done
echo "$found"
