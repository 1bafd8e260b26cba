#!/bin/sh
# Fetch MySQL, which of Debian's suites only sid has, for the tests of kind `mysql`. Prints where it lies (BACKUPCTL_MYSQL_SERVER).
set -eu
exec sh "$(dirname "$0")/servers-beside.sh" mysql-server sid mysql-client-core mysql-server-core
