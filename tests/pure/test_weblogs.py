"""Web logs: lines as Apache and nginx write them, and what others write that looks alike."""

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producers.sources.parsers import parse_auto
from producers.sources.weblogs import parse_access, parse_nginx_error

COMMON = '127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326'


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (COMMON, {"client": "127.0.0.1", "user": "frank", "time": "10/Oct/2000:13:55:36 -0700", "method": "GET",
                  "path": "/apache_pb.gif", "protocol": "HTTP/1.0", "status": 200, "bytes": 2326}),
        (
            COMMON + ' "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"',
            {"client": "127.0.0.1", "user": "frank", "time": "10/Oct/2000:13:55:36 -0700", "method": "GET",
             "path": "/apache_pb.gif", "protocol": "HTTP/1.0", "status": 200, "bytes": 2326,
             "referer": "http://www.example.com/start.html", "agent": "Mozilla/4.08 [en] (Win98; I ;Nav)"},
        ),
        (
            '::1 - - [26/Nov/2026:02:28:19 +0000] "\\x16\\x03\\x01" 400 157 "-" "-"',
            {"client": "::1", "time": "26/Nov/2026:02:28:19 +0000", "request": "\x16\x03\x01", "status": 400,
             "bytes": 157},
        ),
        (
            '::2 - - [26/Nov/2026:02:28:19 +0000] "GET /?q=\\"a\\xc3\\xa9\\xff\\" HTTP/2" 304 - "-" "a\\x22b" 0.1 up',
            {"client": "::2", "time": "26/Nov/2026:02:28:19 +0000", "method": "GET", "path": '/?q="aé\\xff"',
             "protocol": "HTTP/2", "status": 304, "agent": 'a"b', "rest": "0.1 up"},
        ),
        ('- - - [26/Nov/2026:02:28:19 +0000] "-" 408 -', {"client": "-", "time": "26/Nov/2026:02:28:19 +0000",
                                                         "status": 408}),
    ],
)  # fmt: skip
def test_lines_of_access_logs(line: str, data: dict[str, Any]) -> None:
    """Common and combined, with escapes of either server; auto tells them too."""
    assert parse_access(line) == data
    assert parse_auto(line) == data


def test_lines_of_nginx_error_log() -> None:
    """With the context that nginx puts behind the message; auto tells them too."""
    line = (
        '2026/11/26 02:28:19 [error] 12#34: *56 open() "/var/www/x, y" failed (2: No such file or directory), '
        'client: 10.0.0.7, server: shop, request: "GET /x HTTP/1.1", host: "shop.example"'
    )
    data = {
        "time": "2026/11/26 02:28:19", "level": "error", "process": 12, "thread": 34, "connection": 56,
        "message": 'open() "/var/www/x, y" failed (2: No such file or directory)', "client": "10.0.0.7",
        "server": "shop", "request": "GET /x HTTP/1.1", "host": "shop.example",
    }  # fmt: skip
    assert parse_nginx_error(line) == parse_auto(line) == data
    notice = "2026/11/26 02:28:19 [notice] 1#1: using the epoll event method"
    assert parse_auto(notice) == {
        "time": "2026/11/26 02:28:19", "level": "notice", "process": 1, "thread": 1,
        "message": "using the epoll event method",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        '12:00:00 [main/INFO] "quoted" and more',
        "2026-11-26T02:28:19Z INFO main: started",
        "2026-11-26T02:28:19Z worker started: yes",
        "Nov 26 is a day",
        "Nov 26 02:28:19 started without a tag",
        "<html> 12",
        "<13> a number in brackets",
        "2026/11/26 02:28:19 started",
        'a [b/c] "d" 200 12',
    ],
)
def test_what_only_looks_alike_stays_text(line: str) -> None:
    """To auto; who knows better names the form."""
    assert parse_auto(line) == line


@given(st.text(max_size=60))
@example('"' * 10_000)
@example("a - - [" + "x" * 39 + '] "' + "\\" * 50_000)
@example("2026/11/26 02:28:19 [e] 1#1: " + ", client: a" * 5_000)
def test_any_text_is_a_line_or_refused(text: str) -> None:
    """No other error, in no more time than its length asks for."""
    for line in (text, f'10.0.0.7 - - [26/Nov/2026:02:28:19 +0000] "{text}" 200 1',
                 f"2026/11/26 02:28:19 [error] 1#1: {text}"):  # fmt: skip
        for parse in (parse_access, parse_nginx_error):
            with contextlib.suppress(ValueError):
                assert parse(line)
        assert parse_auto(line) is not None or line.strip() == "null"
