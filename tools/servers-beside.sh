#!/bin/sh
# Servers of another Debian suite beside the installed ones, with the libraries they need: `servers-beside.sh NAME SUITE PACKAGE…`
# prints where they lie. Each NAME is a directory of its own, so that libraries of two suites never mix; needs patchelf.
set -eu
name=$1 suite=$2
shift 2
cd "$(dirname "$0")/.."
# the servers' own user must be able to go there, and /root is closed to it
if [ "$(id -u)" = 0 ]; then cache=/var/cache; else cache=${XDG_CACHE_HOME:-$HOME/.cache}; fi
root=$cache/backupctl-tests/$name
if [ ! -d "$root" ]; then
  mkdir -p "$(dirname "$root")"
  fresh=$(mktemp -d "$root.XXXXXX")
  trap 'rm -rf "$fresh"' EXIT
  SHARED_LIBRARIES=1 sh tools/fetch-debs.sh "$suite" "$fresh" "$@"
  rm -rf "$fresh/usr/share/doc" "$fresh/usr/share/man" "$fresh/usr/share/locale"
  libraries=$root/usr/lib/$(basename "$fresh"/usr/lib/*-linux-gnu*)
  loader=$(basename "$(readlink "$fresh"/usr/lib64/ld-linux-*.so.*)")
  find "$fresh"/usr/lib/postgresql/*/bin "$fresh"/usr/bin "$fresh"/usr/sbin -type f 2>/dev/null | while read -r program; do
    patchelf --print-interpreter "$program" >/dev/null 2>&1 || continue  # a script
    patchelf --set-interpreter "$libraries/$loader" --force-rpath --set-rpath "$libraries:$libraries/systemd" "$program"
  done
  # as in the archives that MariaDB and MySQL give out: all in one directory
  for server in mariadbd mysqld; do
    [ ! -e "$fresh/usr/sbin/$server" ] || ln -s "../sbin/$server" "$fresh/usr/bin/$server"
  done
  chmod 755 "$fresh"
  mv "$fresh" "$root"
fi
echo "$root/usr"
