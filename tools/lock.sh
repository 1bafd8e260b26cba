#!/bin/sh
# Refresh the lock file from pyproject.toml. Needs uv; the result holds hashes and no index address.
set -eu
cd "$(dirname "$0")/.."
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
  --custom-compile-command "tools/lock.sh" pyproject.toml -o requirements.lock
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
<<<<<<< HEAD
  --extra test --extra mount --extra otel -c requirements.lock pyproject.toml -o requirements-test.lock
=======
  --extra test --extra mount --extra fleet -c requirements.lock pyproject.toml -o requirements-test.lock
>>>>>>> 4023ff9 (A scheduler asks the catalog for all its jobs at once, and limits are counted, not summed again for each run; Procrastinate in the locks (#6))
