#!/bin/sh
# Make the virtual environment `.venv` from a lock file: tools/venv.sh requirements.lock
# Needs a Python >= 3.11 and a package index that pip can reach. Does nothing when the environment already matches the lock.
set -eu
cd "$(dirname "$0")/.."
lock=$1
python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      python=$candidate
      break
    fi
  done
fi
[ -n "$python" ] || { echo "backupctl needs Python 3.11 or newer: apt-get install python3" >&2; exit 1; }

stamp=.venv/installed-$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0
# the test lock holds everything the run-time lock holds
[ "$lock" = requirements.lock ] && ls .venv/tests-installed-"$(cat requirements-test.lock pyproject.toml | sha256sum | cut -c1-16)" >/dev/null 2>&1 && exit 0

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  rm -rf .venv
  if ! "$python" -m venv .venv >/dev/null 2>&1; then
    # Debian ships venv apart from Python: get it where we may, else work without ensurepip through an installed pip
    rm -rf .venv
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
      (apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv) >/dev/null
      "$python" -m venv .venv
    elif "$python" -m pip --version >/dev/null 2>&1; then
      "$python" -m venv --without-pip .venv
    else
      echo "this Python has neither venv nor pip: apt-get install python3-venv (or python3-pip), then try again" >&2
      exit 1
    fi
  fi
fi
if .venv/bin/python -m pip --version >/dev/null 2>&1; then
  install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
else
  install() { "$python" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check "$@"; }
fi
echo "installing the locked packages into .venv …" >&2
install --require-hashes --no-deps -r "$lock"
# the project itself: a path file does what an editable install does, without a build backend to download
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pwd > "$site/backupctl-project.pth"
cat > .venv/bin/backupctl <<SCRIPT
#!$(pwd)/.venv/bin/python
from backupctl.cli.main import main

main()
SCRIPT
chmod 755 .venv/bin/backupctl
touch "$stamp"
[ "$lock" = requirements-test.lock ] && touch ".venv/tests-installed-$(cat requirements-test.lock pyproject.toml | sha256sum | cut -c1-16)"
exit 0
