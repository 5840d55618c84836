#!/usr/bin/env bash
# images.sh [NAME…]: has the images that the compose files need: redis valkey postgres python millstream app; all if none
# is named. What is there is taken; what is not is pulled; what cannot be pulled is built from Debian's packages
# (compose/base/). Which images these are goes into compose/.env, where docker compose finds it.
#
#   REDIS_IMAGE=… VALKEY_IMAGE=… POSTGRES_IMAGE=… BASE=…   other images than redis:8, valkey/valkey:8, postgres:17,
#                                                         python:3.12-slim
#   PULL_S=60        how long one pull may take; 0: do not try
#   DEBIAN_MIRROR=http://deb.debian.org/debian   where packages come from
#   PYTHON=python3   has pip, with which wheels are gathered; without it the build fetches packages itself
set -euo pipefail
cd "$(dirname "$0")/.."
PULL_S=${PULL_S:-60}
DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
SUITE=trixie
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/millstream-images
LOCAL=millstream-base
for python in ${PYTHON:-} .venv/bin/python python3; do # an environment that uv made has no pip
  if "$python" -m pip --version >/dev/null 2>&1; then PYTHON=$python; break; fi
done
PYTHON=${PYTHON:-python3}

say() { echo "images.sh: $*" >&2; }
die() { say "$*"; exit 1; }
there() { docker image inspect "$1" >/dev/null 2>&1; }

pulled() {
  [ "$PULL_S" != 0 ] && [ -z "${no_registry:-}" ] || return 1
  say "pulling $1"
  timeout "$PULL_S" docker pull -q "$1" >/dev/null 2>"$work/pull" && return 0
  no_registry=yes # one try is enough to know
  say "not to be had: $(tail -n 1 "$work/pull")"
  return 1
}

remember() { # VARIABLE IMAGE
  touch compose/.env
  { grep -v "^$1=" compose/.env || true; echo "$1=$2"; } > "$work/env"
  cp "$work/env" compose/.env
  echo "$1=$2"
}

debian() { # the system that our own images stand on
  DEBIAN=debian:$SUITE-slim
  there "$DEBIAN" && return 0
  DEBIAN=$LOCAL/debian:$SUITE
  there "$DEBIAN" && return 0
  local root=$CACHE/$SUITE-$(date +%Y-%m).tar # anew each month: its packages have updates
  if [ ! -s "$root" ]; then
    say "a minimal Debian ($SUITE) from $DEBIAN_MIRROR, which takes half a minute"
    mkdir -p "$CACHE"
    rm -f "$CACHE/$SUITE"-*.tar "$root.new"
    if command -v mmdebstrap >/dev/null; then
      mmdebstrap --format=tar --variant=apt --include=passwd \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$SUITE" "$root.new" \
        "deb $DEBIAN_MIRROR $SUITE main" "deb $DEBIAN_MIRROR $SUITE-updates main" \
        "deb ${DEBIAN_MIRROR%/debian}/debian-security $SUITE-security main" 2>"$work/log" \
        || { tail -n 5 "$work/log" >&2; die "no minimal Debian could be made"; }
    elif command -v debootstrap >/dev/null; then
      debootstrap --variant=minbase "$SUITE" "$work/root" "$DEBIAN_MIRROR" >"$work/log" 2>&1 \
        || { tail -n 5 "$work/log" >&2; die "no minimal Debian could be made"; }
      tar -C "$work/root" -cf "$root.new" --exclude=./var/cache/apt/archives/*.deb .
    else
      die "neither can images be pulled, nor is mmdebstrap or debootstrap here (apt-get install mmdebstrap)"
    fi
    mv "$root.new" "$root"
  fi
  docker import -c 'CMD ["bash"]' "$root" "$DEBIAN" >/dev/null
}

stand_in() { # NAME: built from compose/base/NAME.Dockerfile
  debian
  say "building $LOCAL/$1 from Debian's packages"
  docker build --network host --build-arg "DEBIAN=$DEBIAN" \
    -t "$LOCAL/$1" -f "compose/base/$1.Dockerfile" compose/base >"$work/log" 2>&1 \
    || { tail -n 20 "$work/log" >&2; die "$LOCAL/$1 could not be built"; }
}

have() { # NAME VARIABLE IMAGE: sets `image`
  image=${!2:-$3}
  there "$image" || {
    if there "$LOCAL/$1:latest"; then image=$LOCAL/$1:latest
    elif ! pulled "$image"; then
      [ "$image" = "$3" ] || die "$2=$image is neither here nor to be pulled"
      stand_in "$1"
      image=$LOCAL/$1:latest
    fi
  }
}

wheels() { # of this Millstream and of all it needs, for the Python of the image
  rm -f compose/wheels/*.whl
  local python machine platforms=()
  read -r python machine < <(docker run --rm --network none --entrypoint python3 "$base" -c \
    'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())')
  for tag in manylinux_2_34 manylinux_2_28 manylinux_2_17 manylinux2014; do platforms+=(--platform "${tag}_$machine"); done
  "$PYTHON" -m pip wheel -q --no-deps --disable-pip-version-check -w "$work/wheels" . >"$work/log" 2>&1 \
    && "$PYTHON" -m pip download -q --disable-pip-version-check -d "$work/wheels" --only-binary=:all: \
      --python-version "$python" --implementation cp "${platforms[@]}" \
      "$(ls "$work"/wheels/millstream-*.whl)[postgres]" >>"$work/log" 2>&1 \
    && cp "$work"/wheels/*.whl compose/wheels/ && return 0
  say "no wheels could be gathered here, the build fetches them itself: $(tail -n 1 "$work/log")"
}

build() { # NAME DOCKERFILE TITLE ARGUMENT…
  local name=$1 file=$2 title=$3
  shift 3
  say "building $name"
  docker build -t "$name" -f "compose/$file" "$@" . >"$work/log" 2>&1 \
    || { tail -n 20 "$work/log" >&2; die "$name could not be built"; }
  # What this replaces; what is younger serves the next build as its cache.
  docker image prune -f --filter "label=org.opencontainers.image.title=$title" --filter until=24h >/dev/null
}

docker version >/dev/null 2>&1 || die "there is no Docker engine that answers (docker version says why)"
work=$(mktemp -d)
trap 'rm -rf "$work"; rm -f compose/wheels/*.whl' EXIT
base=
for name in "${@:-redis valkey postgres millstream app}"; do for name in $name; do
  case $name in
    redis) have redis REDIS_IMAGE redis:8; remember REDIS_IMAGE "$image" ;;
    valkey) have valkey VALKEY_IMAGE valkey/valkey:8; remember VALKEY_IMAGE "$image" ;;
    postgres) have postgres POSTGRES_IMAGE postgres:17; remember POSTGRES_IMAGE "$image" ;;
    python) have python BASE python:3.12-slim; echo "BASE=$image" ;;
    millstream)
      have python BASE python:3.12-slim; base=$image
      wheels
      build millstream:latest Dockerfile millstream --build-arg "BASE=$base"
      remember MILLSTREAM_IMAGE millstream:latest ;;
    app)
      have python BASE python:3.12-slim; base=$image
      there millstream:latest || die "the image of the app takes Millstream from millstream:latest: images.sh millstream app"
      build millstream-shop:latest app.Dockerfile millstream-app --build-arg "BASE=$base" --build-arg APP=examples/shop
      remember APP_IMAGE millstream-shop:latest ;;
    *) die "there is no image $name: redis valkey postgres python millstream app" ;;
  esac
done; done
