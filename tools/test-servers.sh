#!/bin/sh
# Install what the tests run against (Debian 12): PostgreSQL, MariaDB, sshd, Ceph RGW, restic, a browser, fonts, shells.
# With root or passwordless sudo it installs; otherwise it says exactly what is missing and fails.
set -eu
packages="acl attr btrfs-progs ca-certificates ceph-common ceph-mon ceph-osd chromium fish fonts-noto-cjk fuse3 git groff-base iproute2 logrotate man-db
mariadb-backup mariadb-client mariadb-server nftables openssh-client openssh-server openssl patchelf poppler-utils postgresql postgresql-contrib
python3-apt python3-venv radosgw redis-server redis-tools restic sudo systemd zsh"
missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
  sudo=""
elif sudo -n true 2>/dev/null; then
  sudo="sudo"
else
  echo "the tests need these Debian packages, and there is neither root nor passwordless sudo here to install them:" >&2
  echo " $missing" >&2
  echo "as root: apt-get install --no-install-recommends$missing" >&2
  exit 1
fi
echo "installing$missing" >&2
# package scripts must not start the servers: tests start their own, on loopback, as an ordinary user
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
  $sudo chmod 755 "$policy"
  made=yes
fi
status=0
$sudo apt-get -qq update >/dev/null || status=$?
# shellcheck disable=SC2086
[ "$status" = 0 ] && { DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install -y --no-install-recommends $missing >/dev/null || status=$?; }
[ -n "$made" ] && $sudo rm -f "$policy"
exit "$status"
