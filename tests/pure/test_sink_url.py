"""SinkUrl: what people write is checked against what a sink declares, and no password is shown."""

import os
from pathlib import Path
from typing import Any

import pytest

from consumers.sinks.sink_url import PASSWORD, TIMEOUT, Option, Secret, SinkUrl, read_sink_url
from pipeline.errors import SinkRefused, UsageError

OPTIONS = (
    Option("keep", "count", "10", "old files", least=1, most=1_000),
    Option("rotate", "size", "100MB", "size"),
    TIMEOUT,
    Option("compress", "choice", "none", "how", choices=("none", "gzip")),
    Option("create", "flag", "yes", "make it"),
    Option("table", "text", None, "the table", needed=True),
    PASSWORD,
)
CANARY = "Can4ry"


def read(url: str, **given: Any) -> SinkUrl:
    """The URL with the options above."""
    return read_sink_url(url, OPTIONS, **given)


def test_options_have_their_units_and_defaults() -> None:
    """Sizes are bytes, durations ms, flags bools; what was not given has its default."""
    url = read("pg://app@db:99/x?table=logs&timeout=1m&rotate=2kB&create=no")
    assert dict(url.options) == {
        "keep": 10, "rotate": 2_000, "timeout": 60_000, "compress": "none", "create": False, "table": "logs",
        "password": None,
    }  # fmt: skip
    assert (url.scheme, url.username, url.host, url.port, url.path) == ("pg", "app", "db", 99, "/x")
    assert url.shown == "pg://app@db:99/x?table=logs&timeout=1m&rotate=2kB&create=no"


def test_a_place_is_what_stands_between_scheme_and_options() -> None:
    """Percent-decoded, so that a file may have a ? in its name."""
    assert read("jsonl:/a b/c%3F.jsonl?table=t").place == "/a b/c?.jsonl"
    assert read("jsonl:x?table=t").host == ""
    assert read("pg://[::1]:5/x?table=t").host == "::1"
    assert read("pg://a:1,b:2/x?table=t").hosts == "a:1,b:2"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "table=t&tabel=u",
            "there is no option 'tabel'; there are: keep, rotate, timeout, compress, create, table",
        ),
        ("table=t&keep=0", "keep='0': at least 1 and at most 1,000"),
        ("table=t&keep=x", "keep='x' is not a whole number"),
        ("table=t&rotate=many", "rotate='many' is not a size"),
        ("table=t&timeout=1ms", "timeout='1ms': at least 0.1 s and at most 5 min"),
        ("table=t&compress=xz", "compress='xz': one of none, gzip"),
        ("table=t&create=maybe", "create='maybe': yes or no"),
        ("table=t&table=u", "has table twice"),
        ("table=", "table is empty"),
        ("table", "option table has no value"),
        ("", "table=… is missing: the table"),
        ("table=t&password=a&password_file=b", "both password and password_file"),
        ("table=t&password=${NOSUCH}", "password names ${NOSUCH}, which the environment does not have"),
    ],
)
def test_what_cannot_be_meant_is_refused(query: str, said: str) -> None:
    """In one line that says what is allowed."""
    with pytest.raises(UsageError) as caught:
        read(f"pg://db/x?{query}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "nothing", "/a/b", ":x", "1x:y"])
def test_what_has_no_scheme_is_no_sink(url: str) -> None:
    """And is not shown: it may be anything."""
    with pytest.raises(UsageError, match="no scheme"):
        read(url)


@pytest.mark.parametrize(
    "url",
    [
        f"pg://app:{CANARY}@db/x?table=t",
        f"pg://app@db/x?table=t&password={CANARY}",
        "pg://app:${PW}@db/x?table=t",
        "pg://app@db/x?table=t&password=${PW}",
    ],
)
def test_a_password_is_read_and_never_shown(url: str) -> None:
    """Written out, or by a variable of the environment."""
    read_url = read(url, environ={"PW": CANARY})
    assert read_url.password is not None
    assert read_url.password.read() == CANARY
    assert CANARY not in f"{read_url!r} {read_url} {read_url.shown} {read_url.password} {read_url.options}"
    assert read_url.shown.startswith("pg://app@db/x?table=t")


@pytest.mark.parametrize(
    "url",
    [
        f"pg://app:a/{CANARY}@db/x?table=t",
        f"pg://app:a?{CANARY}@db/x&table=t",
        f"pg://app:a?{CANARY}=1@db/x&table=t",
        f"pg://app:1?{CANARY}=1@db/x&table=t",
        f"pg://app:{CANARY}@db:port/x?table=t",
        f"pg://app:{CANARY}@db/x?tabel=t&keep=0",
        f"pg://app:{CANARY}@db/x?table=t&password={CANARY}",
        f"pg://{CANARY}:x:y/x?table=t",
    ],
)
@pytest.mark.parametrize("others", [False, True])
def test_no_error_shows_a_password(url: str, others: bool) -> None:
    """Also where its characters cut the URL in the wrong place."""
    with pytest.raises(UsageError) as caught:
        read(url, others=others)
    assert CANARY not in str(caught.value)


def test_a_password_in_front_of_a_host_needs_a_sink_that_takes_one() -> None:
    """It would be dropped in silence."""
    with pytest.raises(UsageError, match="takes none"):
        read_sink_url("pg://a:b@db", ())


def test_a_password_file_is_read_each_time(tmp_path: Path) -> None:
    """It may change while we run; one that is missing is waited for, as a person has to mend it."""
    file = tmp_path / "pw"
    secret = read(f"pg://db/x?table=t&password_file={file}").password
    assert isinstance(secret, Secret)
    with pytest.raises(SinkRefused, match="No such file"):
        secret.read()
    file.write_text("one\n")
    assert secret.read() == "one"
    file.write_text("two")
    assert secret.read() == "two"


def test_undeclared_options_go_on_where_the_sink_passes_them_on() -> None:
    """Their values are not shown: the target's own passwords may be among them."""
    url = read("pg://db/x?table=t&sslmode=require&sslpassword=Can4ry", others=True)
    assert dict(url.others) == {"sslmode": "require", "sslpassword": "Can4ry"}
    assert "Can4ry" not in f"{url!r} {url}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("pg://a:b@db/x?table=t", True),
        ("pg://a@db/x?table=t&password=b", True),
        ("pg://a@db/x?table=t&password=${PW}b", True),
        ("pg://a:${PW}@db/x?table=t", False),
        ("pg://a@db/x?table=t&password_file=b", False),
    ],
)
def test_a_password_in_the_url_itself_is_known_as_such(url: str, shown: bool) -> None:
    """So that the command line can warn: processes are listed with their arguments."""
    secret = read(url, environ={"PW": CANARY}).password
    assert secret is not None
    assert secret.in_the_open is shown


def test_a_password_that_is_not_utf8_is_refused_at_once() -> None:
    """Here, and not with each batch; it is not shown. Others of any alphabet are taken."""
    declared = (Option("password", "secret", None, "help"),)
    with pytest.raises(UsageError, match="password is not UTF-8") as caught:
        read_sink_url("x://u:${PW}@h", declared, environ={"PW": os.fsdecode(b"Can4ry\xe4")})
    assert "Can4ry" not in str(caught.value)
    password = read_sink_url("x://u:${PW}@h", declared, environ={"PW": "ä漢\t"}).password
    assert password is not None
    assert password.read() == "ä漢\t"
