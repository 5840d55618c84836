#!/bin/sh
# Makes the database at the first start, then becomes the server. Knows of the official image's variables
# POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE and PGDATA, and runs *.sql of /docker-entrypoint-initdb.d.
# https://hub.docker.com/_/postgres has what they mean.
set -eu
[ "${1:-}" = postgres ] || exec "$@"
user=${POSTGRES_USER:-postgres}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD_FILE:?names the file with the password of the first user}"
  initdb -D "$PGDATA" -U "$user" --pwfile="$POSTGRES_PASSWORD_FILE" -E UTF8 --locale=C.UTF-8 \
    --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  # No listener on the network before all is there: nobody takes a half-made database for a ready one.
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
  [ "${POSTGRES_DB:-postgres}" = postgres ] || createdb -U "$user" "$POSTGRES_DB"
  for file in /docker-entrypoint-initdb.d/*.sql; do
    [ ! -e "$file" ] || psql -q -v ON_ERROR_STOP=1 -U "$user" -d "${POSTGRES_DB:-postgres}" -f "$file"
  done
  pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec "$@" -c listen_addresses='*'
