"""Smtp: digests mailed to a real mail server (aiosmtpd), and what it means when that refuses."""

import asyncio
import email
import email.policy
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from consumers.sinks.sink_url import read_sink_url
from consumers.sinks.smtp import KIND, Smtp
from pipeline.errors import DecodeError, SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Later, Outcomes
from tests.sinking import CANARY, TIME_MS, corrupt, received

EVERY_MS = 300_000


class Mailbox:
    """What the server accepted, and what it answers instead."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.refuse: dict[str, str] = {}
        """Answers by recipient, or by "DATA" or "MAIL"."""

    async def handle_MAIL(self, _: Any, __: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        """Of whom it takes mails."""
        if "MAIL" in self.refuse:
            return self.refuse["MAIL"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: list[str]) -> str:  # noqa: N802
        """For whom it takes mails."""
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:  # noqa: N802
        """Take one."""
        if "DATA" in self.refuse:
            return self.refuse["DATA"]
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        return "250 OK"


class MailServer:
    """A mail server on loopback, in a thread of its own."""

    def __init__(self, box: Mailbox, *, from_the_start: ssl.SSLContext | None = None, **options: Any) -> None:
        """from_the_start: encrypted so. options: of aiosmtpd."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def listen() -> asyncio.Server:
            return await self._loop.create_server(
                lambda: SMTP(box, hostname="mail.test", loop=self._loop, **options),
                "127.0.0.1",
                0,
                ssl=from_the_start,
            )

        self._server = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Be gone."""
        if not self._thread.is_alive():
            return

        async def end() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def box() -> Mailbox:
    """Where mails arrive."""
    return Mailbox()


@pytest.fixture
def server(box: Mailbox) -> Iterator[MailServer]:
    """A server without encryption."""
    running = MailServer(box)
    yield running
    running.stop()


class Clock:
    """Time that a test sets."""

    ms = TIME_MS

    def __call__(self) -> int:
        return self.ms


def sink(
    port: int, clock: Clock | None = None, query: str = "tls=none", login: str = "", scheme: str = "smtp"
) -> Smtp:
    """The sink."""
    url = (
        f"{scheme}://{login}127.0.0.1:{port}?to=ops@example.com,dev@example.com&from=app@example.com&{query}"
    )
    return Smtp(read_sink_url(url, KIND.options), clock)


def event(number: int, level: str = "error", text: str = "boom", **data: Any) -> Event:
    """An event of a log."""
    return received(Event({"event": text, "level": level, **data}, type="log", time_ms=TIME_MS), number)


def later(outcomes: Outcomes) -> dict[int, int]:
    """For how long events are put off, in ms; asserts that nothing went wrong."""
    assert all(isinstance(error, Later) for error in outcomes.errors.values()), outcomes.errors
    return {index: error.delay_ms for index, error in outcomes.errors.items() if isinstance(error, Later)}


def test_a_digest_is_mailed_when_it_is_time(server: MailServer, box: Mailbox) -> None:
    """The first error of a kind is held until then; what is below the level, and repeats, are done at once."""
    clock = Clock()
    mailing = sink(server.port, clock)
    assert later(mailing([event(0, "info"), event(1), event(2), event(3, "debug"), event(4, "critical", "worse")])) == {
        1: EVERY_MS, 4: EVERY_MS,
    }  # fmt: skip
    clock.ms += EVERY_MS // 2
    assert later(mailing([event(5)])) == {}
    assert box.mails == []
    clock.ms += EVERY_MS // 2
    assert mailing([event(1)]).errors == {}
    (mail,) = box.mails
    assert mail["Subject"] == "[millstream] 4 errors: boom and 1 more"
    assert (mail["From"], mail["To"]) == ("app@example.com", "ops@example.com, dev@example.com")
    assert box.envelopes == [("app@example.com", ["ops@example.com", "dev@example.com"])]
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "text/plain"
    assert "1. 3 x boom" in mail.get_content()
    assert "2. 1 x worse" in mail.get_content()
    assert mailing([event(4, "critical", "worse")]).errors == {}
    assert len(box.mails) == 1


def test_at_most_one_mail_in_the_time(server: MailServer, box: Mailbox) -> None:
    """Whatever comes meanwhile is in the next one."""
    clock = Clock()
    mailing = sink(server.port, clock, "tls=none&every=1m")
    mailing([event(1)])
    clock.ms += 60_000
    mailing([event(1)])
    assert later(mailing([event(2)])) == {0: 60_000}
    clock.ms += 59_999
    assert later(mailing([event(3), event(2)])) == {1: 1}
    assert len(box.mails) == 1
    clock.ms += 1
    mailing([event(2)])
    assert [mail["Subject"] for mail in box.mails] == [
        "[millstream] 1 error: boom",
        "[millstream] 2 errors: boom",
    ]


def test_what_was_held_by_a_process_that_died_is_told_by_the_next(server: MailServer, box: Mailbox) -> None:
    """At once, as it is old by then: counts are lost, kinds are not; a mail that is repeated has its Message-ID."""
    clock = Clock()
    assert later(sink(server.port, clock)([event(1), event(2)])) == {0: EVERY_MS}
    clock.ms += EVERY_MS
    for _ in range(2):
        assert sink(server.port, clock)([event(1)]).errors == {}
    assert [mail["Subject"] for mail in box.mails] == ["[millstream] 1 error: boom"] * 2
    assert box.mails[0]["Message-ID"] == box.mails[1]["Message-ID"]


def test_nothing_in_an_event_becomes_a_header(server: MailServer, box: Mailbox) -> None:
    """Nor another recipient, nor an end of the mail."""
    clock = Clock()
    mailing = sink(server.port, clock)
    nasty = "x\r\nBcc: evil@example.com\r\n\r\n<b>html</b>\r\n.\r\nMAIL FROM:<a@b>\x00ü"
    mailing([event(1, text=nasty)])
    clock.ms += EVERY_MS
    assert mailing([event(1, text=nasty)]).errors == {}
    (mail,) = box.mails
    assert mail["Bcc"] is None
    assert "\n" not in mail["Subject"]
    assert "x  Bcc: evil@example.com" in mail["Subject"]
    assert set(mail.keys()) >= {"Subject", "From", "To", "Date", "Message-ID"}
    assert box.envelopes[0][1] == ["ops@example.com", "dev@example.com"]
    assert "<b>html</b>" in mail.get_content()


@pytest.mark.parametrize(
    ("refuse", "kind", "said"),
    [
        ({"DATA": "451 try again"}, SinkAway, "says 451: try again"),
        ({"DATA": "554 looks like spam"}, SinkRefused, "says 554: looks like spam"),
        ({"MAIL": "550 not you"}, SinkRefused, "says 550: not you"),
        (
            {"ops@example.com": "550 unknown", "dev@example.com": "550 unknown"},
            SinkRefused,
            "says 550: unknown",
        ),
        (
            {"ops@example.com": "450 greylisted", "dev@example.com": "450 later"},
            SinkAway,
            "says 450: greylisted",
        ),
    ],
)
def test_a_server_that_refuses_costs_no_event(
    server: MailServer, box: Mailbox, refuse: dict[str, str], kind: type[SinkAway], said: str
) -> None:
    """What is held waits, and counts are kept: the next try tells them."""
    clock = Clock()
    mailing = sink(server.port, clock)
    mailing([event(1), event(2)])
    clock.ms += EVERY_MS
    box.refuse = refuse
    outcomes = mailing([event(1), event(3)])
    assert {index: type(error) for index, error in outcomes.errors.items()} == {0: kind}
    assert said in str(outcomes.errors[0])
    box.refuse = {}
    assert mailing([event(1)]).errors == {}
    assert [mail["Subject"] for mail in box.mails] == ["[millstream] 3 errors: boom"]


def test_one_recipient_that_is_refused_does_not_keep_the_mail_from_the_others(
    server: MailServer, box: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said."""
    clock = Clock()
    mailing = sink(server.port, clock)
    mailing([event(1)])
    clock.ms += EVERY_MS
    box.refuse = {"dev@example.com": "550 unknown"}
    assert mailing([event(1)]).errors == {}
    assert box.envelopes[0][1] == ["ops@example.com"]
    assert "refused='dev@example.com'" in caplog.text


def test_a_server_that_is_down_is_waited_for(box: Mailbox, server: MailServer) -> None:
    """Nobody listens."""
    clock = Clock()
    mailing = sink(server.port, clock)
    mailing([event(1)])
    clock.ms += EVERY_MS
    server.stop()
    outcomes = mailing([event(1)])
    assert type(outcomes.errors[0]) is SinkAway
    assert "refused" in str(outcomes.errors[0])


def test_a_server_that_does_not_answer_is_waited_for_up_to_the_timeout() -> None:
    """It accepts the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        clock = Clock()
        mailing = sink(silent.getsockname()[1], clock, "tls=none&timeout=100ms")
        mailing([event(1)])
        clock.ms += EVERY_MS
        outcomes = mailing([event(1)])
    assert type(outcomes.errors[0]) is SinkAway
    assert "timed out" in str(outcomes.errors[0])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """Certificates, and the file of who signed them."""
    found, path = trustme.CA(), tmp_path_factory.mktemp("ca") / "ca.pem"
    found.cert_pem.write_to_path(str(path))
    return found, path


@pytest.mark.filterwarnings(
    "ignore:Requiring AUTH while not requiring TLS"
)  # it is encrypted without its help
@pytest.mark.parametrize("how", ["starttls", "tls"])
def test_passwords_go_over_encrypted_connections(
    box: Mailbox, authority: tuple[trustme.CA, Path], how: str, tmp_path: Path
) -> None:
    """With STARTTLS, or from the start; a wrong one waits for somebody, and is not shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("127.0.0.1").configure_cert(context)
    logins: list[tuple[bytes, bytes]] = []

    def authenticate(_: Any, __: Any, ___: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    encrypted: dict[str, Any] = {"tls_context": context}
    if how == "tls":
        encrypted = {"from_the_start": context, "auth_require_tls": False}
    server = MailServer(box, authenticator=authenticate, auth_required=True, **encrypted)
    try:
        (tmp_path / "password").write_text(CANARY + "\n")
        clock = Clock()
        scheme = "smtps" if how == "tls" else "smtp"
        query = f"ca={authority[1]}&password_file={tmp_path}/password"
        mailing = sink(server.port, clock, query, "app@", scheme)
        mailing([event(1)])
        clock.ms += EVERY_MS
        outcomes = mailing([event(1)])
        assert type(outcomes.errors[0]) is SinkRefused
        assert "says 535" in str(outcomes.errors[0])
        assert CANARY not in str(outcomes.errors[0]) + repr(mailing)
        (tmp_path / "password").write_text(CANARY + "ä\n", encoding="utf-8")
        outcomes = mailing([event(1)])
        assert type(outcomes.errors[0]) is SinkRefused, "not the event's fault"
        assert "ASCII" in str(outcomes.errors[0])
        (tmp_path / "password").write_text("right\n")
        assert mailing([event(1)]).errors == {}
        assert set(logins) == {(b"app", CANARY.encode()), (b"app", b"right")}
        assert len(box.mails) == 1
        before = len(logins)
        strange = sink(server.port, clock, f"password_file={tmp_path}/password", "app@", scheme)
        clock.ms += EVERY_MS
        outcomes = strange([event(9)])
        assert type(outcomes.errors[0]) is SinkRefused
        assert "no secure connection" in str(outcomes.errors[0])
        assert len(logins) == before
    finally:
        server.stop()


def test_a_server_without_starttls_is_refused(server: MailServer) -> None:
    """Nobody in between can take the encryption away."""
    clock = Clock()
    mailing = sink(server.port, clock, "every=5m")
    mailing([event(1)])
    clock.ms += EVERY_MS
    outcomes = mailing([event(1)])
    assert type(outcomes.errors[0]) is SinkRefused
    assert "STARTTLS" in str(outcomes.errors[0])


def test_a_corrupt_event_fails_alone(server: MailServer) -> None:
    """It has no level that could be read."""
    outcomes = sink(server.port, Clock())([corrupt(), event(1)])
    assert {index: type(error) for index, error in outcomes.errors.items()} == {0: DecodeError, 1: Later}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("smtp://h?from=a@b", "to=… is missing"),
        ("smtp://h?to=a@b&from=nobody", "from='nobody' is no mail address"),
        ("smtp://h?to=a@b%0d%0ax:y&from=a@b", "is no mail address"),
        ("smtp://h?to=a@b,,c@d&from=a@b", "to='' is no mail address"),
        ("smtp://?to=a@b&from=a@b", "one host after smtp://"),
        ("smtp://h?to=a@b&from=a@b&where=type=x", "where='type=x': level>=error"),
        ("smtp://h?to=a@b&from=a@b&where=level>=loud", "'loud' is no level"),
        ("smtp://h?to=a@b&from=a@b&every=1ms", "every='1ms': at least"),
        ("smtp://h?to=a@b&from=a@b&subject=a%0ab", "subject: printable"),
        ("smtp://u@h?to=a@b&from=a@b", "a user before the @, and password"),
        (f"smtp://u:{CANARY}@h?to=a@b&from=a@b&tls=none", "tls=none would send the password unencrypted"),
        ("smtp://h?to=a@b&from=a@b&ca=/etc/hosts", "ca='/etc/hosts' cannot be used"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: str, said: str) -> None:
    """At the start, and no password is shown."""
    with pytest.raises(UsageError) as raised:
        Smtp(read_sink_url(url, KIND.options))
    assert said in str(raised.value)
    assert CANARY not in str(raised.value)


def test_threads_count_together(server: MailServer, box: Mailbox) -> None:
    """One digest for all of a process."""
    clock = Clock()
    mailing = sink(server.port, clock)
    threads = [
        threading.Thread(target=mailing, args=([event(n) for n in range(at, at + 50)],))
        for at in range(0, 200, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.ms += EVERY_MS
    mailing([event(500)])
    assert [mail["Subject"] for mail in box.mails] == ["[millstream] 201 errors: boom"]
