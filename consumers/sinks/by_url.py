"""sink(): a ready-made batch handler by its URL. All sinks in a table; the module of one is imported for it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from consumers.sinks.kind import SinkKind
from consumers.sinks.patient import PATIENCE, Patient
from consumers.sinks.sink_url import Secret, read_sink_url, scheme_of
from pipeline.errors import UsageError
from pipeline.units import Duration


@dataclass(frozen=True, slots=True)
class Listed:
    """A sink as lists show it."""

    module: str
    """In this folder; its KIND is a SinkKind."""
    does: str
    example: str
    over_http: bool = False
    """Its schemes are NAME+http and NAME+https."""


SINKS = {
    "console": Listed("console", "JSON lines on stdout", "console:"),
    "jsonl": Listed(
        "json_lines",
        "JSON lines in a file, rotated, old ones compressed",
        "jsonl:logs.jsonl?every=1d&compress=zstd&keep=30",
    ),
    "list": Listed("lists", "tasks of a list queue, for old workers", "list:emails?url=redis://old:6379"),
    "parquet": Listed("parquet", "Parquet files in a folder", "parquet:events?every=10m&rotate=64MB"),
    "postgresql": Listed(
        "postgres",
        "a table of PostgreSQL, each event once",
        "postgresql://app:${PGPASSWORD}@db/shop?table=logs",
    ),
    "clickhouse": Listed(
        "clickhouse",
        "rows of a ClickHouse table",
        "clickhouse+https://app@db/logs?table=events&password_file=pw",
        True,
    ),
    "opensearch": Listed(
        "opensearch",
        "documents in OpenSearch or Elasticsearch",
        "opensearch+https://app@search?index=logs-{date}&password_file=pw",
        True,
    ),
    "loki": Listed("loki", "lines in Grafana Loki", "loki+http://loki:3100?labels=level,type,host", True),
    "otlp": Listed("otlp", "log records of OpenTelemetry", "otlp+http://collector:4318?service=shop", True),
    "webhook": Listed(
        "webhook",
        "signed requests to a receiver of your own",
        "webhook+https://example.com/events?secret_file=FILE",
        True,
    ),
    "smtp": Listed(
        "smtp",
        "one mail in a while that sums errors up",
        "smtp://app@mail?to=ops@example.com&from=app@example.com&password_file=FILE",
    ),
    "smtps": Listed(
        "smtp", "the same, encrypted from the start", "smtps://mail?to=ops@example.com&from=app@example.com"
    ),
}


def sink(url: str, *, patience: Duration = PATIENCE, environ: Mapping[str, str] | None = None) -> Patient:
    """The sink of a URL as a batch handler, which waits while its target is away: no event pays for that.

    Args:
        url: `scheme:place?option=value`; `millstream sink ls` lists them. In a password, ${NAME} stands for a variable
            of the environment, and password_file= names a file that is read anew for each connection.
        patience: how long a batch waits in hand while the target is away; then it is put off. Shorter than grace.
        environ: where ${NAME} is looked up; None: in this process's environment.

    Example:
        app.consumer("logs", group="archive", batch=500)(sink("jsonl:archive.jsonl"))

    Raises:
        UsageError: no such sink or option; says which there are.
    """
    kind = kind_of(url)
    read = read_sink_url(
        url, kind.options, others=kind.others, environ=os.environ if environ is None else environ
    )
    return Patient(kind.make(read), read.shown, patience=patience, batch_events=kind.batch_events)


def shows_password(url: str) -> bool:
    """Whether a password stands in the URL itself, so that everyone sees it who sees the URL.

    Raises:
        UsageError: as sink().
    """
    kind = kind_of(url)
    options = read_sink_url(url, kind.options, others=kind.others, environ=os.environ).options
    return any(isinstance(value, Secret) and value.in_the_open for value in options.values())


def kind_of(url: str) -> SinkKind:
    """What the sink of a URL declares.

    Raises:
        UsageError: there is no such sink.
    """
    scheme = scheme_of(url)
    name = scheme.removesuffix("+http").removesuffix("+https")
    if name not in SINKS or (name != scheme and not SINKS[name].over_http):
        near = ["webhook+" + scheme] if scheme in ("http", "https") else get_close_matches(name, SINKS, n=1)
        guess = f"; did you mean {near[0]}:?" if near else ""
        raise UsageError(
            f"there is no sink {scheme + ':'!r}; there are: {', '.join(f'{s}:' for s in SINKS)}{guess}"
        )
    kind: SinkKind = import_module(f"{__package__}.{SINKS[name].module}").KIND
    return kind
