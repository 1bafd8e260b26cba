#!/bin/sh
# Install what the benchmarks compare with (Debian): borg, restic and pgBackRest; newer restic comes from tools/restic-versions.sh.
set -eu
missing=""
for package in borgbackup pgbackrest restic; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
  sudo=""
elif sudo -n true 2>/dev/null; then
  sudo="sudo"
else
  echo "as root: apt-get install --no-install-recommends$missing (without them their columns are left out)" >&2
  exit 0
fi
echo "installing$missing" >&2
$sudo apt-get -qq update >/dev/null
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install -y --no-install-recommends $missing >/dev/null
