"""Addresses: every form a URL may take, and what a wrong one is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import NoServerError, UsageError
from pipeline.server.locate import Address, locate, redact

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://cache:7000/3", "redis://cache:7000/3"),
        ("redis://cache:7000?db=3", "redis://cache:7000/3"),
        ("REDIS://cache/0\n", "redis://cache:6379/0"),
        ("redis://[::1]:7000", "redis://[::1]:7000/0"),
        ("redis://:s3cret@cache", "redis://cache:6379/0"),
        ("redis://ann:s3cret@cache/1", "redis://ann@cache:6379/1"),
        ("redis://ann:s3cret@a:1,b:2", "redis://ann@a:1,b:2/0"),
        ("rediss://ann:s3cret@cache", "rediss://ann@cache:6379/0"),
        ("rediss://cache?ssl_cert_reqs=required&ssl_check_hostname=true", "rediss://cache:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://ann:s3cret@/run/redis.sock?db=2", "unix://ann@/run/redis.sock?db=2"),
        ("unix:///run/redis.sock?password=s3cret", "unix:///run/redis.sock"),
        ("redis+sentinel://a,b:2/main", "redis+sentinel://a:26379,b:2/main/0"),
        ("redis+sentinel://ann:s3cret@a:1,b:2/main/4", "redis+sentinel://ann@a:1,b:2/main/4"),
        ("rediss+sentinel://a:1/main", "rediss+sentinel://a:1/main/0"),
        ("embedded:///var/lib/millstream", "embedded:///var/lib/millstream"),
    ],
)
def test_every_form_of_address_is_read_and_shown_without_its_password(url: str, shown: str) -> None:
    """A URL becomes an Address whose `shown` is the same place, and nothing printable holds the password."""
    address = locate(url)
    assert address.shown == str(address) == shown
    assert SECRET not in repr(address)
    assert address.password == (SECRET if SECRET in url else None)


def test_an_address_has_its_parts() -> None:
    """What the connector needs stands in fields of its own."""
    assert locate("redis://ann:s3cret@a:1,b:2") == Address(
        kind="tcp", host="a", port=1, seeds=(("a", 1), ("b", 2)), username="ann", password=SECRET
    )
    assert locate("redis+sentinel://:s3cret@a:1,b:2/main/4") == Address(
        kind="sentinel", sentinels=(("a", 1), ("b", 2)), service="main", db=4, password=SECRET
    )
    assert locate("redis+sentinel://a:1/main/4").with_host("c", 3).shown == "redis://c:3/4"


def test_user_and_password_are_percent_decoded() -> None:
    """A password of any characters can be written."""
    address = locate("redis://an%40n:p%2F%3A%40%23%25w@cache")
    assert (address.username, address.password) == ("an@n", "p/:@#%w")


def test_a_relative_embedded_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is fixed when the address is read, whatever the working directory becomes later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    assert locate("embedded://data").folder == str(tmp_path / "data")
    assert locate("embedded://./a%20b/c").folder == str(tmp_path / "a b" / "c")
    assert locate("embedded://~/data").folder == "/home/ann/data"


def test_an_embedded_address_may_name_its_program_and_its_fsync_policy() -> None:
    """Both are options of the URL."""
    address = locate("embedded:///data?server=/opt/redis-server&fsync=always")
    assert (address.binary, address.fsync) == ("/opt/redis-server", "always")


def test_code_comes_before_millstream_url_before_redis_url() -> None:
    """The order in which an address is looked for; an empty variable counts as none."""
    environ = {"MILLSTREAM_URL": "redis://first", "REDIS_URL": "redis://second"}
    assert locate("redis://code", environ).host == "code"
    assert locate(None, environ).host == "first"
    assert locate(None, environ | {"MILLSTREAM_URL": ""}).host == "second"


def test_without_any_address_the_error_names_all_ways() -> None:
    """Nothing is assumed, least of all a server on localhost."""
    with pytest.raises(NoServerError, match=r"--url.*MILLSTREAM_URL.*REDIS_URL.*embedded://FOLDER"):
        locate(None, {})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is empty"),
        ("localhost:6379", "has no scheme"),
        ("s3cret", "has no scheme"),
        ("ann:s3cret@cache", "has no scheme"),
        ("http://ann:s3cret@cache", "begins with 'http'"),
        ("redis://ann:s3cret@cache:x", "where HOST:PORT belongs"),
        ("redis://cache:s3cret", "where HOST:PORT belongs"),
        ("redis://:s3cret@cache:70000", "port that is not 1 to 65535"),
        ("redis://:s3cret/more@cache", "write / as %2F"),
        ("redis://:s3cret?more@cache", "write / as %2F"),
        ("redis://:s3cret#more@cache", "holds a '#'"),
        ("redis://\udcdc:s3cret@cache", "bytes that are not UTF-8"),
        ("redis://:s3cret@cache/zero", "database 'zero'"),
        ("redis://:s3cret@a,b/1", "a cluster has database 0 only"),
        ("redis://:s3cret@cache?protocol=3", "option 'protocol'; allowed are db"),
        ("redis://:s3cret@cache?ssl_ca_certs=x", "write rediss://"),
        ("rediss://:s3cret@cache?ssl_ca_certs=/not/there", "'/not/there', which is not a file"),
        ("rediss://:s3cret@cache?ssl_cert_reqs=none", "insecure_tls=True in code"),
        ("rediss://:s3cret@cache?ssl_check_hostname=false", "insecure_tls=True in code"),
        ("rediss://:s3cret@cache?ssl_min_version=1", "option 'ssl_min_version'"),
        ("redis+sentinel://:s3cret@a:1", "names no service"),
        ("unix://run/redis.sock", "needs an absolute path"),
        ("unix://", "needs an absolute path"),
        ("embedded://", "names no folder"),
        ("embedded://ann:s3cret@data", "has a user or password"),
        ("embedded://data?fsync=no", "always or everysec"),
    ],
)
def test_a_wrong_url_gets_one_line_that_names_the_forms_and_no_password(url: str, said: str) -> None:
    """The message says what is wrong and what is allowed, and echoes nothing that may be a password."""
    with pytest.raises(UsageError) as raised:
        locate(None, {"REDIS_URL": url}) if url else locate("")
    message = str(raised.value)
    assert said in message
    assert message.startswith("REDIS_URL " if url else "url ")
    assert "redis+sentinel://HOST:PORT,…/SERVICE/DB" in message
    assert "\n" not in message
    assert SECRET not in message


def test_certificates_are_named_in_the_url(tmp_path: Path) -> None:
    """The authority to trust, and a certificate of our own to show."""
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    address = locate(
        f"rediss://cache?ssl_ca_certs={tmp_path}/ca&ssl_certfile={tmp_path}/cert&ssl_keyfile={tmp_path}/key"
    )
    assert (address.ca_file, address.cert_file, address.key_file) == tuple(
        f"{tmp_path}/{name}" for name in ("ca", "cert", "key")
    )
    assert address.tls
    assert not address.insecure_tls


def test_only_code_can_switch_verification_off() -> None:
    """insecure_tls=True does, and then a URL may say so too; it says nothing about plain connections."""
    assert locate("rediss://cache?ssl_cert_reqs=none", insecure_tls=True).insecure_tls
    assert locate("rediss://cache", insecure_tls=True).insecure_tls
    assert not locate("redis://cache", insecure_tls=True).insecure_tls


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("cannot reach redis://ann:s3cret@cache:1/0 now", "cannot reach redis://***@cache:1/0 now"),
        ("redis://:s3/cr@et@cache", "redis://***@cache"),
        ("ann:s3cret@cache", "***@cache"),
        ("unix:///x?db=1&password=s3cret", "unix:///x?db=1&password=***"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_redact_hides_what_may_be_a_password(text: str, redacted: str) -> None:
    """Any text that holds a URL can be made fit to print."""
    assert redact(text) == redacted


@given(
    st.text(max_size=60),
    st.sampled_from(["", "redis://", "rediss://", "redis+sentinel://", "unix://", "embedded://"]),
)
def test_reading_any_text_gives_an_address_or_a_usage_error(text: str, scheme: str) -> None:
    """No other exception comes of any input."""
    try:
        address = locate(scheme + text)
    except UsageError:
        return
    assert address.shown
