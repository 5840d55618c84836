# Stands in for python:3.12-slim where that cannot be pulled: Debian's Python, with venv.
ARG DEBIAN=debian:trixie-slim
FROM ${DEBIAN}
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends ca-certificates python3-minimal python3-venv tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
CMD ["python3"]
