#!/bin/sh
# secrets.sh: makes the passwords that the compose files ask for, each in a file of compose/secrets/, where missing.
# The folder is for its owner alone. The files are mounted into containers one by one, whose users are not the owner,
# so they are readable there.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in redis_password postgres_password; do
  [ -s "secrets/$name" ] || {
    (umask 077; head -c 24 /dev/urandom | base64 | tr '+/' '-_' > "secrets/$name.new")
    mv "secrets/$name.new" "secrets/$name"
    echo "made compose/secrets/$name"
  }
  chmod 444 "secrets/$name"
done
