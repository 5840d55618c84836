# Stands in for postgres:17 where that cannot be pulled: Debian's PostgreSQL, with the user, folder and variables of that
# image as far as our compose files use them.
ARG DEBIAN=debian:trixie-slim
FROM ${DEBIAN}
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends postgresql-common \
 && sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
 && apt-get install -qq -y --no-install-recommends postgresql-17 \
 && usermod -u 999 postgres && groupmod -g 999 postgres \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/postgresql \
 && install -d -o postgres -g postgres -m 0700 /var/lib/postgresql /var/lib/postgresql/data \
 && install -d -o postgres -g postgres -m 2775 /run/postgresql
ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/data
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
USER postgres
VOLUME /var/lib/postgresql/data
EXPOSE 5432
# A fast shutdown; on SIGTERM it would wait for its clients.
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
