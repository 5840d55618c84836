# An application with Millstream in it: a pattern for a Dockerfile of your own. From the root of the repository:
#
#   docker build -f compose/app.Dockerfile --build-arg APP=examples/shop -t millstream-shop .
#
# APP is a folder with the app's modules, and a requirements.txt if it needs more than Millstream. Millstream itself
# comes out of its image; with a Millstream from an index, name it in requirements.txt and leave that stage out.
# BASE must be the image that Millstream's own was built from.
ARG BASE=python:3.12-slim
ARG MILLSTREAM=millstream:latest

FROM ${MILLSTREAM} AS millstream

# Compilers and headers, where a requirement has no wheel, belong into this stage: it is not part of the image.
FROM ${BASE} AS build
LABEL org.opencontainers.image.title=millstream-app
ARG APP
WORKDIR /src
COPY --from=millstream /opt /opt
COPY ${APP} /app
RUN set -e; if [ -s /app/requirements.txt ]; then \
      python3 -m venv /tmp/pip; \
      /tmp/pip/bin/pip --python /opt/venv/bin/python install -q --no-cache-dir --disable-pip-version-check -r /app/requirements.txt; \
    fi; \
    /opt/venv/bin/python -m compileall -q /app; mkdir /out; mv /opt /app /out

FROM ${BASE}
LABEL org.opencontainers.image.title=millstream-app
RUN echo 'app:x:10001:0:The application:/app:/usr/sbin/nologin' >> /etc/passwd \
 && install -d -o 10001 -g 0 -m 0770 /data /var/log/app
ENV PATH=/opt/venv/bin:/opt/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /app
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
# `millstream run app:app` for its consumers. The health of workers: `healthy STREAM GROUP`.
CMD ["python", "app.py"]
COPY --from=build /out /
