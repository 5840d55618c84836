"""Smtp: a batch handler that sums errors up and mails them, at most one mail in `every`.

`smtp://app@mail:587?to=ops@example.com&from=app@example.com&every=5m&where=level>=error`: events below that level
are done at once. What is held, counted and lost with a process is in digest.py. A mail that was accepted just before
the process died is sent again, with the same Message-ID. Each process has its own digest: let one do it.

The connection is encrypted by STARTTLS, or from the start with smtps: and port 465; certificates are checked, and
without encryption no password is sent. Mails are plain text, and nothing in an event can become a header. Sources:
https://www.rfc-editor.org/rfc/rfc5321#section-4.2 (codes), https://www.rfc-editor.org/rfc/rfc3207 (STARTTLS),
https://www.rfc-editor.org/rfc/rfc3834#section-5 (Auto-Submitted), https://docs.python.org/3/library/smtplib.html
"""

import hashlib
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate

from consumers.sinks.digest import Digest, Group, subject_of, text_of
from consumers.sinks.documents import unique_id
from consumers.sinks.http import CA
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import PASSWORD, TIMEOUT, Option, SinkUrl
from consumers.sinks.words import words_of
from pipeline.errors import DecodeError, SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.observe.log import get_logger
from pipeline.outcome import Outcomes
from pipeline.severity import LEVELS, level_named, level_of

PORT, TLS_PORT = 587, 465
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[^\s@<>,;:\"()\[\]\\]{1,255}")
_WHERE = re.compile(r"level\s*>=\s*([a-z]+)")


class Smtp:
    """Mails a digest of errors; see the text of this module."""

    def __init__(self, url: SinkUrl, now_ms: Callable[[], int] | None = None) -> None:
        """now_ms: ms since 1970, for tests.

        Raises:
            UsageError: no host, an address or condition that cannot be meant, or a password that would go unencrypted.
        """
        options = url.options
        if not url.host or "," in url.hosts:
            raise UsageError(f"{url.shown!r}: one host after {url.scheme}://")
        self._host = url.host
        self._to = [_address(part.strip(), "to") for part in options["to"].split(",")]
        self._from = _address(options["from"], "from")
        self._least = _least(options["where"])
        self._subject = options["subject"]
        if not self._subject.isprintable():
            raise UsageError("subject: printable characters")
        self._tls = options["tls"]
        if self._tls == "auto":
            self._tls = "tls" if url.scheme == "smtps" or url.port == TLS_PORT else "starttls"
        self._port = url.port or (TLS_PORT if self._tls == "tls" else PORT)
        self._user, self._password = url.username, url.password
        if (self._user is None) != (self._password is None):
            raise UsageError(f"{url.shown!r}: a user before the @, and password or password_file, or neither")
        if self._tls == "none" and self._password is not None:
            raise UsageError(f"{url.shown!r}: tls=none would send the password unencrypted")
        self._ca = options["ca"]
        if self._tls != "none":
            self._context()
        self._timeout_s = options["timeout"] / 1_000
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._digest = Digest(options["every"])
        self._lock = threading.Lock()

    def __call__(self, events: list[Event]) -> Outcomes:
        """Count the events, and mail what there is when it is time."""
        outcomes = Outcomes()
        with self._lock:
            now_ms = self._now_ms()
            held: dict[int, str] = {}
            for index, event in enumerate(events):
                try:
                    if self._is_meant(event) and self._digest.add(event, now_ms):
                        held[index] = unique_id(event)
                except (DecodeError, UsageError) as error:
                    outcomes.fail(index, error)
            due_ms = self._digest.due_ms()
            if due_ms is None:
                return outcomes
            if now_ms < due_ms:
                for index in held:
                    outcomes.later(index, f"{due_ms - now_ms}ms")
                return outcomes
            try:
                self._mail(self._digest.groups(), now_ms)
            except SinkAway as away:
                for index in held:  # what was counted is done: counted once
                    outcomes.fail(index, away)
                return outcomes
            self._digest.told(held.values(), now_ms)
        return outcomes

    def close(self) -> None:
        """Nothing is mailed: what is held comes back to the next process, and tells there what happened."""

    def _is_meant(self, event: Event) -> bool:
        level = level_of(event.data)
        return bool(level) and LEVELS[level] >= self._least

    def _mail(self, groups: list[Group], now_ms: int) -> None:
        message = EmailMessage()
        message["Subject"] = f"{self._subject} {subject_of(groups)}".strip()
        message["From"] = self._from
        message["To"] = ", ".join(self._to)
        message["Date"] = formatdate(now_ms / 1_000)
        ids = hashlib.sha256("\n".join(sorted(group.held_id for group in groups)).encode("utf-8", "replace"))
        message["Message-ID"] = f"<{ids.hexdigest()[:32]}@{self._from.partition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text_of(groups))
        refused = self._accepted(message)
        if refused:
            get_logger("sink").warning(
                "the mail server refuses some of the recipients", refused=", ".join(refused)
            )

    def _accepted(self, message: EmailMessage) -> list[str]:
        """Hand the mail over; the recipients that were refused while others were not."""
        where = f"{self._host}:{self._port}"
        try:
            with self._connection() as server:
                if self._user is not None and self._password is not None:
                    password = self._password.read()
                    if not (self._user + password).isascii():
                        raise SinkRefused(
                            "user or password hold more than ASCII, which smtplib cannot log in with"
                        )
                    server.login(self._user, password)
                return sorted(server.send_message(message, self._from, self._to))
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            raise _refused(where, code, text) from None
        except smtplib.SMTPResponseException as error:
            raise _refused(where, error.smtp_code, error.smtp_error) from None
        except smtplib.SMTPNotSupportedError as error:
            raise SinkRefused(f"{where}: {error}: see tls=") from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "TLS fails"
            raise SinkRefused(f"no secure connection to {where}: {reason}: see ca= and tls=") from None
        except (smtplib.SMTPException, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SinkAway(f"cannot mail by {where}: {why or type(error).__name__}") from None

    def _connection(self) -> smtplib.SMTP:
        name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "localhost"
        if self._tls == "tls":
            return smtplib.SMTP_SSL(
                self._host, self._port, name, timeout=self._timeout_s, context=self._context()
            )
        server = smtplib.SMTP(self._host, self._port, name, timeout=self._timeout_s)
        if self._tls == "starttls":
            try:
                server.starttls(context=self._context())
            except BaseException:
                server.close()
                raise
        return server

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca)
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise UsageError(f"ca={self._ca!r} cannot be used: {why}") from None


def _refused(where: str, code: int, text: bytes | str) -> SinkAway:
    """What an answer of a mail server means: 4xx passes, 5xx does not, and neither is an event's fault."""
    said = f"{where} says {code}: {words_of(text)}"
    return SinkRefused(said) if 500 <= code < 600 else SinkAway(said)


def _address(text: str, option: str) -> str:
    if not _ADDRESS.fullmatch(text) or not text.isascii():
        raise UsageError(f"{option}={text!r} is no mail address, as in ops@example.com")
    return text


def _least(text: str) -> int:
    match = _WHERE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"where={text!r}: level>=error, or another level")
    return level_named(match[1], "where: level")


KIND = SinkKind(
    make=Smtp,
    options=(
        Option("to", "text", None, "who gets the mails, with commas", needed=True),
        Option("from", "text", None, "who sends them", needed=True),
        Option("every", "duration", "5m", "at most one mail in this time", least=1_000, most=86_400_000),
        Option("where", "text", "level>=error", "events that are told of"),
        Option("subject", "text", "[millstream]", "what subjects begin with"),
        Option(
            "tls", "choice", "auto", "starttls, tls from the start (smtps:, port 465), or none",
            choices=("auto", "starttls", "tls", "none"),
        ),
        CA,
        TIMEOUT,
        PASSWORD,
    ),
)  # fmt: skip
