#!/bin/sh
# Fetch PostgreSQL 17, MariaDB 11.8 and Valkey 8 (Debian 13) beside the installed ones, for the tests that have several majors on one
# machine. Prints where they lie (BACKUPCTL_NEWER_SERVERS).
set -eu
exec sh "$(dirname "$0")/servers-beside.sh" newer-servers trixie postgresql-17 postgresql-client-17 mariadb-backup mariadb-client \
  mariadb-client-core mariadb-server mariadb-server-core valkey-server valkey-tools
