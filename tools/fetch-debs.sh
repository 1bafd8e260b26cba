#!/bin/sh
# Unpack packages of another Debian suite below a directory; nothing is installed. `fetch-debs.sh SUITE DIRECTORY PACKAGE…`
# Uses the mirror this machine's apt already uses. With SHARED_LIBRARIES=1 the libraries that they need come along.
set -eu
suite=$1 target=$2
shift 2
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' | grep -v security | head -n 1)
[ -n "$mirror" ] || { echo "apt has no mirror here to fetch $* of $suite from" >&2; exit 1; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/empty" "$work/debs"
: > "$work/status"
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" > "$work/sources.list"
apt() {
  apt-get -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/empty" -o "Dir::State::lists=$work/lists" \
    -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=" -o "Acquire::Languages=none" \
    -o "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false" -qq "$@"
}
{
  apt update
  if [ -n "${SHARED_LIBRARIES:-}" ]; then
    needed=$(apt --no-install-recommends -s install "$@" | sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p' | grep -v -e perl -e llvm)
    set -- "$@" $needed
  fi
  (cd "$work/debs" && apt download "$@")
} > "$work/log" 2>&1 || { echo "$* of $suite could not be fetched: $(tail -n 1 "$work/log")" >&2; exit 1; }
mkdir -p "$target"
for package in "$work"/debs/*.deb; do
  dpkg-deb -x "$package" "$target"
done
