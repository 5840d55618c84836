#!/bin/sh
# server.sh PROGRAM: runs redis-server or valkey-server by redis.conf, with the password of /run/secrets/redis_password.
# The password itself goes nowhere: not on a command line, not into the environment, and not into the configuration,
# which gets its SHA-256.
set -eu
secret=${PASSWORD_FILE:-/run/secrets/redis_password}
[ -r "$secret" ] || { echo "server.sh: cannot read $secret: run compose/secrets.sh" >&2; exit 78; }
# Command substitution takes the newlines at its end away, as clients do.
password=$(cat "$secret")
[ -n "$password" ] || { echo "server.sh: $secret is empty: run compose/secrets.sh" >&2; exit 78; }
hash=$(printf %s "$password" | sha256sum)
umask 077
printf 'include %s\ndir /data\nuser default on #%s ~* &* +@all\n' /etc/millstream/redis.conf "${hash%% *}" > /tmp/server.conf
unset password
exec "$1" /tmp/server.conf
