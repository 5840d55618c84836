"""Http: the one way in which sinks speak HTTP: one address, connections kept alive, and what each answer means.

Stands on urllib3 (extra `http`), whose retries and redirects are off: what is repeated is ours to decide, and no
password follows a redirect. Certificates are checked. Answers are read up to a limit, and within the time of the call.

Nothing that goes wrong here is an event's fault unless the target says so:

- 2xx: taken. 400, 413, 422: refused for what it holds (RequestRefused): halving.py finds the event.
- 429, 408, 425 and 5xx but 500 and 501, no connection, no answer in time, an answer cut off: SinkAway, `Retry-After`
  honoured. Whether an unanswered request was carried out is not known: it is made again.
- 401, 403, 404, every other 4xx and any redirect: SinkRefused, which says what to mend.
- 500, 501: RequestFailed: it may be the event's fault or not; halving.py finds out.

Sources: https://www.rfc-editor.org/rfc/rfc9110#name-status-codes, https://www.rfc-editor.org/rfc/rfc6585#section-4,
https://urllib3.readthedocs.io/en/stable/reference/urllib3.connectionpool.html
"""

import base64
import gzip
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlencode

from consumers.sinks.halving import RequestFailed, RequestRefused
from consumers.sinks.sink_url import PASSWORD, TIMEOUT, Option, Secret, SinkUrl
from consumers.sinks.words import words_of
from pipeline.compression import compress
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.limits import DEFAULT_LIMITS

HAS_DRIVER = find_spec("urllib3") is not None
"""Whether the extra `http` is installed."""

if TYPE_CHECKING or HAS_DRIVER:
    import urllib3
    from urllib3 import exceptions as wrong

MAX_ANSWER_BYTES = 4_000_000
"""Longer answers are not read to their end: the connection is closed, and the answer counts as not understood."""
COMPRESS_BYTES = 1_000
"""A shorter body is sent as it is."""
GZIP_LEVEL = 1
"""Of log events it leaves a fifth more than level 6, in a third of the time."""
MAX_RETRY_AFTER_S = 3_600.0
CONNECTIONS = 8
"""Kept at a time: as many threads may write at once."""
_READ_BYTES = 65_536
_TOKEN = re.compile(r"[\x21-\x7e]+")

TOKEN = Option("token", "secret", None, "bearer token; better ${VARIABLE}, or token_file=FILE")
CA = Option("ca", "text", None, "file of certificates that are trusted, instead of the system's")
COMPRESS = Option(
    "compress", "choice", "gzip", "how requests are compressed", choices=("none", "gzip", "zstd")
)
GZIP = Option("compress", "choice", "gzip", "how requests are compressed", choices=("none", "gzip"))
HTTP_OPTIONS = (TIMEOUT, CA, PASSWORD, TOKEN)
"""Options of every sink that speaks HTTP; those that compress have one of the others, too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of a target. Names of headers are in small letters."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def words(self) -> str:
        """The body as one short line of printable characters: what the target says."""
        return words_of(self.body)

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            SinkAway: it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            not_understood(self, "it is not JSON")


def not_understood(answer: Answer, why: str) -> NoReturn:
    """Raise SinkAway: what came is not the target's answer. Whether it took the events is not known."""
    raise SinkAway(f"its answer ({answer.status}) cannot be understood: {why}: {answer.words[:200]!r}")


def taken(answer: Answer) -> None:
    """Return if the answer's status says that the request was carried out.

    Raises:
        RequestRefused, RequestFailed, SinkAway, SinkRefused: as the text of this module says.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    said = f"{status}: {answer.words}" if answer.words else f"{status}"
    if status in (400, 413, 422):
        raise RequestRefused(said)
    if status in (500, 501):
        raise RequestFailed(said)
    if status in (408, 425, 429) or status > 501:
        raise SinkAway(said, retry_after_s(answer))
    if status in (401, 403):
        raise SinkRefused(f"it refuses our user, password or token ({said}): see their options")
    if 300 <= status < 400:
        there = answer.headers.get("location", "")
        raise SinkRefused(
            f"it redirects ({status}) to {_place_of(there)}: name that address in the URL of the sink"
        )
    if status in (404, 405, 410):
        raise SinkRefused(f"nothing takes events at this address ({said}): see the URL's host, port and path")
    raise SinkRefused(f"it refuses every request ({said})")


def retry_after_s(answer: Answer, now: datetime | None = None) -> float | None:
    """How long the target asks to be left alone: seconds or a date, at most an hour; None if it does not say.

    Source: https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    text = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((at - (now or datetime.now(UTC))).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def http_base(url: SinkUrl, port: int) -> str:
    """http://host:port or https://…, from a sink's URL such as loki+https://host/; port: the usual one.

    Raises:
        UsageError: it names no host, or several.
    """
    name, _, wire = url.scheme.rpartition("+")
    if wire not in ("http", "https"):
        raise UsageError(f"{url.shown!r}: {wire}+https://HOST, or {wire}+http://HOST without encryption")
    if not url.host or "," in url.hosts:
        raise UsageError(f"{url.shown!r}: one host after {name}+{wire}://")
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{wire}://{host}:{url.port or port}"


class Http:
    """One target and how it is spoken to. Threads may share it."""

    def __init__(self, url: SinkUrl, port: int, *, headers: Mapping[str, str] | None = None) -> None:
        """port: where the URL names none.

        Raises:
            UsageError: the extra is not installed, the URL names no host, `ca` is no file of certificates, or both a
            password and a token are given.
        """
        if not HAS_DRIVER:
            raise UsageError(f"sink {url.scheme} needs urllib3: pip install 'millstream[http]'")
        self.base = http_base(url, port)
        """For messages."""
        options = url.options
        self._password: Secret | None = url.password
        self._token: Secret | None = options["token"]
        self._user = url.username or ""
        if self._token is not None and (self._password is not None or self._user):
            raise UsageError(f"{url.shown!r}: a user with password, or a token, not both")
        self._timeout_s = options["timeout"] / 1_000
        self._compress = options.get("compress", "none")
        self._headers = {"User-Agent": "millstream", **(headers or {})}
        limits: dict[str, Any] = {"maxsize": CONNECTIONS, "retries": False}
        if self.base.startswith("https"):
            limits |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": options["ca"]}
            if options["ca"] is not None:
                _check_ca(options["ca"], url)
        elif options["ca"] is not None:
            raise UsageError(f"{url.shown!r}: ca= is for https")
        self._pool = urllib3.connection_from_url(self.base, **limits)

    def post(
        self, path: str, body: bytes, content_type: str, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and read its whole answer, whatever it says.

        Raises:
            SinkAway: no connection, no answer in time, or a broken one. SinkRefused: no valid certificate, or no
            password or token to be had.
        """
        sent = {"Content-Type": content_type, **self._headers, **(headers or {}), **self._login()}
        body, encoding = encoded(body, self._compress)
        if encoding:
            sent["Content-Encoding"] = encoding
        deadline_s = time.monotonic() + self._timeout_s
        try:
            response = self._pool.urlopen(
                "POST",
                path,
                body=body,
                headers=sent,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s),
            )
            try:
                answer = self._read(response, deadline_s)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except (wrong.HTTPError, OSError) as error:
            raise _no_answer(error, self.base) from None
        return answer

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.close()

    def _login(self) -> dict[str, str]:
        """The header that says who we are; passwords and tokens are read anew, as they may change while we run."""
        if self._token is not None:
            token = self._token.read().strip()
            if not _TOKEN.fullmatch(token):
                raise SinkRefused(
                    "the token is empty, or holds what a header cannot: see token or token_file"
                )
            return {"Authorization": f"Bearer {token}"}
        if self._password is not None or self._user:
            password = self._password.read() if self._password is not None else ""
            login = base64.b64encode(f"{self._user}:{password}".encode()).decode()
            return {"Authorization": f"Basic {login}"}
        return {}

    def _read(self, response: "urllib3.BaseHTTPResponse", deadline_s: float) -> Answer:
        parts: list[bytes] = []
        length = 0
        while part := response.read1(_READ_BYTES):  # read() would wait for all of them, drop by drop
            length += len(part)
            parts.append(part)
            if length > MAX_ANSWER_BYTES:
                response.close()
                break
            if time.monotonic() > deadline_s:
                raise TimeoutError
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, b"".join(parts)[:MAX_ANSWER_BYTES])


def encoded(body: bytes, how: str) -> tuple[bytes, str]:
    """The body as it is sent, and its Content-Encoding; small ones are left as they are."""
    if how == "none" or len(body) < COMPRESS_BYTES:
        return body, ""
    if how == "zstd":
        return compress(body, DEFAULT_LIMITS), "zstd"
    return gzip.compress(body, compresslevel=GZIP_LEVEL, mtime=0), "gzip"


def with_query(path: str, query: Mapping[str, str]) -> str:
    """A path, percent-encoded, with its query."""
    return quote(path, safe="/%:@!$&'()*+,;=~.-_") + (f"?{urlencode(query)}" if query else "")


def _check_ca(path: str, url: SinkUrl) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{url.shown!r}: ca={path!r} cannot be used: {why}") from None


def _place_of(location: str) -> str:
    """Where a redirect points to, without what may be secret in its query."""
    place = location.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = place.partition("//")
    return repr(f"{scheme}{slashes}{rest.rpartition('@')[2]}"[:200]) if place else "another address"


def _no_answer(error: Exception, base: str) -> SinkAway:
    """What it means that a request ended without a whole answer."""
    if isinstance(error, wrong.SSLError):
        return SinkRefused(f"no secure connection to {base}: {_reason(error)}: see ca=")
    if isinstance(error, wrong.NameResolutionError):
        return SinkAway(f"cannot reach {base}: its name is not known")
    if isinstance(error, wrong.NewConnectionError):
        return SinkAway(f"cannot reach {base}: {_reason(error)}")
    if isinstance(error, wrong.ConnectTimeoutError):
        return SinkAway(f"cannot reach {base}: no answer within the timeout")
    if isinstance(error, wrong.TimeoutError | TimeoutError):
        return SinkAway(f"no answer of {base} within the timeout; whether it took the events is not known")
    return SinkAway(f"{base} broke off its answer; whether it took the events is not known: {_reason(error)}")


def _reason(error: Exception) -> str:
    """What the innermost of nested errors says, without addresses of objects."""
    while error.args and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    text = re.sub(r"<[^>]*>:? ?|HTTPS?Connection(Pool)?\([^)]*\): ?", "", str(error))
    text = text.replace("Failed to establish a new connection: ", "")
    return " ".join(text.split())[:200] or type(error).__name__
