# Stands in for redis:8 where that cannot be pulled: Debian's Redis, with the user, folder and programs of that image.
ARG DEBIAN=debian:trixie-slim
FROM ${DEBIAN}
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends redis-server \
 && usermod -u 999 redis && groupmod -g 999 redis \
 && install -d -o redis -g redis -m 0700 /data \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/redis
USER redis
WORKDIR /data
VOLUME /data
EXPOSE 6379
CMD ["redis-server"]
