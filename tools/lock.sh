#!/bin/sh
# Refresh the lock file from pyproject.toml. Needs uv; the result holds hashes and no index address.
set -eu
cd "$(dirname "$0")/.."
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
  --custom-compile-command "tools/lock.sh" pyproject.toml -o requirements.lock
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
  --extra test --extra mount --extra notify --extra otel --extra fleet -c requirements.lock pyproject.toml -o requirements-test.lock
