"""Syslog lines: each form as the RFCs show it, what daemons make of it, and never another error than ValueError."""

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producers.sources.syslog_line import FACILITIES, LEVELS, parse_syslog

TIME = "2003-10-11T22:14:15.003Z"


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (  # RFC 5424, 6.5, example 1
            f"<34>1 {TIME} mymachine.example.com su - ID47 - \ufeff'su root' failed for lonvick on /dev/pts/8",
            {"level": "critical", "facility": "auth", "time": TIME, "host": "mymachine.example.com", "app": "su",
             "message_id": "ID47", "message": "'su root' failed for lonvick on /dev/pts/8"},
        ),
        (  # example 2: ms and a zone
            "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
            {"level": "notice", "facility": "local4", "time": "2003-08-24T05:14:15.000003-07:00",
             "host": "192.0.2.1", "app": "myproc", "process": "8710",
             "message": "%% It's time to make the do-nuts."},
        ),
        (  # example 3: structured data
            f'<165>1 {TIME} example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventID="1011"] An event',
            {"level": "notice", "facility": "local4", "time": TIME, "host": "example.com",
             "app": "evntslog", "message_id": "ID47",
             "data": {"exampleSDID@32473": {"iut": "3", "eventID": "1011"}}, "message": "An event"},
        ),
        (  # example 4: structured data alone
            f'<165>1 {TIME} h evntslog - ID47 [a@1 iut="3"][b@1 class="high"]',
            {"level": "notice", "facility": "local4", "time": TIME, "host": "h", "app": "evntslog",
             "message_id": "ID47", "data": {"a@1": {"iut": "3"}, "b@1": {"class": "high"}}, "message": ""},
        ),
        (  # nothing is known
            "<0>1 - - - - - -",
            {"level": "emergency", "facility": "kern", "message": ""},
        ),
        (  # escapes
            r'<14>1 - - - - - [x a="\"\\\]" b=""] [no element]',
            {"level": "info", "facility": "user", "data": {"x": {"a": '"\\]', "b": ""}}, "message": "[no element]"},
        ),
        (  # RFC 3164, 5.4, example 1
            "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
            {"level": "critical", "facility": "auth", "time": "Oct 11 22:14:15", "host": "mymachine", "app": "su",
             "message": "'su root' failed for lonvick on /dev/pts/8"},
        ),
        (  # without a host, as syslog(3) writes to /dev/log
            "<13>Feb  5 17:32:18 cron[99]: (root) CMD (true)",
            {"level": "notice", "facility": "user", "time": "Feb  5 17:32:18", "app": "cron", "process": "99",
             "message": "(root) CMD (true)"},
        ),
        (  # example 2: no tag
            "<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
            {"level": "notice", "facility": "user", "time": "Feb  5 17:32:18", "host": "10.0.0.99",
             "message": "Use the BFG!"},
        ),
        (
            "<13>Nov 26 02:28:19 fe80::1 app: text",
            {"level": "notice", "facility": "user", "time": "Nov 26 02:28:19", "host": "fe80::1", "app": "app",
             "message": "text"},
        ),
        ("<13>Use the BFG!", {"level": "notice", "facility": "user", "message": "Use the BFG!"}),
        (  # in a file
            "Nov 26 02:28:19 web-1 sshd[812]: Accepted publickey for app from 10.0.0.7 port 50514 ssh2",
            {"time": "Nov 26 02:28:19", "host": "web-1", "app": "sshd", "process": "812",
             "message": "Accepted publickey for app from 10.0.0.7 port 50514 ssh2"},
        ),
        (
            "Nov 26 02:28:19 web-1 kernel: [ 12.5] eth0: link up",
            {"time": "Nov 26 02:28:19", "host": "web-1", "app": "kernel", "message": "[ 12.5] eth0: link up"},
        ),
        (  # rsyslog's RSYSLOG_FileFormat
            "2026-11-26T02:28:19.123456+00:00 web-1 systemd[1]: Started app.",
            {"time": "2026-11-26T02:28:19.123456+00:00", "host": "web-1", "app": "systemd", "process": "1",
             "message": "Started app."},
        ),
    ],
)  # fmt: skip
def test_each_form_is_taken_apart(line: str, data: dict[str, Any]) -> None:
    """Parts that are not there are left out; all else of the line is in the message."""
    assert parse_syslog(line) == data


@pytest.mark.parametrize(
    "line",
    ["", "text", "<>1 - - - - - -", "<192>1 - - - - - -", "<34>2 - - - - - -", "<34>1 - - - - - [",
     '<34>1 - - - - - [x a="b]', "<34>1 - - - - - [x a=b]", "<34>1 - - - - - -text", "<34>1 - - - - - text",
     "<34>1 - - - - - []", "Nov 26 02:28:19", "Nov 26 02:28:19 ", "2026-11-26 02:28:19 INFO started",
     "2026-11-26T02:28:19Z", "2026-11-26T02:28:19Z INFO started", "Nov 26 02:28:19 web-1 no tag"],
)  # fmt: skip
def test_what_is_no_syslog_line_is_refused(line: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_syslog(line)


@given(st.integers(0, 191))
def test_a_priority_is_a_facility_and_a_level(priority: int) -> None:
    """Facility times eight plus severity."""
    found = parse_syslog(f"<{priority}>1 - - - - - - x")
    assert FACILITIES.index(found["facility"]) * 8 + LEVELS.index(found["level"]) == priority


@given(st.text(max_size=80))
@example("<13>1 - - - - - [" + "a" * 100_000)
@example("<13>Nov 26 02:28:19 " + ":" * 100_000)
def test_any_text_is_a_syslog_line_or_refused(text: str) -> None:
    """No other error, in no more time than its length asks for."""
    for line in (text, f"<13>{text}", f"<13>1 - - - - - {text}", f"Nov 26 02:28:19 h {text}"):
        with contextlib.suppress(ValueError):
            found = parse_syslog(line)
            assert found["message"] in line
