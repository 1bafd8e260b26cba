#!/bin/sh
# Fetch PostgreSQL 17, MariaDB 11.8 and Valkey 8 (Debian 13) beside the installed ones, with the libraries they need, for the tests that
# have several majors on one machine. Prints where they lie (BACKUPCTL_NEWER_SERVERS); needs patchelf.
set -eu
cd "$(dirname "$0")/.."
# the servers' own user must be able to go there, and /root is closed to it
if [ "$(id -u)" = 0 ]; then cache=/var/cache; else cache=${XDG_CACHE_HOME:-$HOME/.cache}; fi
root=$cache/backupctl-tests/newer-servers
if [ ! -d "$root" ]; then
  mkdir -p "$(dirname "$root")"
  fresh=$(mktemp -d "$root.XXXXXX")
  trap 'rm -rf "$fresh"' EXIT
  SHARED_LIBRARIES=1 sh tools/fetch-debs.sh trixie "$fresh" postgresql-17 postgresql-client-17 mariadb-backup mariadb-client \
    mariadb-client-core mariadb-server mariadb-server-core valkey-server valkey-tools
  rm -rf "$fresh/usr/share/doc" "$fresh/usr/share/man" "$fresh/usr/share/locale"
  libraries=$root/usr/lib/$(basename "$fresh"/usr/lib/*-linux-gnu*)
  ln -s ../sbin/mariadbd "$fresh/usr/bin/mariadbd"  # as in the archives that MariaDB gives out: all in one directory
  loader=$(basename "$(readlink "$fresh"/usr/lib64/ld-linux-*.so.*)")
  find "$fresh/usr/lib/postgresql/17/bin" "$fresh"/usr/bin "$fresh"/usr/sbin -type f | while read -r program; do
    patchelf --print-interpreter "$program" >/dev/null 2>&1 || continue  # a script
    patchelf --set-interpreter "$libraries/$loader" --force-rpath --set-rpath "$libraries:$libraries/systemd" "$program"
  done
  chmod 755 "$fresh"
  mv "$fresh" "$root"
fi
echo "$root/usr"
