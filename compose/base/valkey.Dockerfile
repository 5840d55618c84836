# Stands in for valkey/valkey:8 where that cannot be pulled: Debian's Valkey, with the user, folder and programs of it.
ARG DEBIAN=debian:trixie-slim
FROM ${DEBIAN}
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends valkey-server \
 && usermod -u 999 valkey && groupmod -g 999 valkey \
 && install -d -o valkey -g valkey -m 0700 /data \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/valkey
USER valkey
WORKDIR /data
VOLUME /data
EXPOSE 6379
CMD ["valkey-server"]
