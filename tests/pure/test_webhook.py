"""Webhook: signatures as Standard Webhooks has them, and everything that is not one is refused."""

import json
from collections.abc import Mapping

import pytest

import millstream
from pipeline.errors import UsageError, WebhookError
from pipeline.webhook import key_of, signed_headers, verify_webhook, webhook_id

# The example that the libraries of Standard Webhooks are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ID, AT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
EVENTS = json.dumps(
    [{"specversion": "1.0", "id": str(n), "source": "shop", "type": "t", "data": {"n": n}} for n in range(2)]
).encode()


def headers(body: bytes = EVENTS, *secrets: str, at_s: int = AT_S) -> dict[str, str]:
    """Of a request that is signed with these."""
    return signed_headers(ID, body, secrets or (SECRET,), at_s)


def test_a_request_is_signed_as_the_specification_has_it() -> None:
    """The known answer."""
    assert headers(BODY) == {"webhook-id": ID, "webhook-timestamp": str(AT_S), "webhook-signature": SIGNATURE}


def test_events_of_a_signed_request_are_read() -> None:
    """Names of headers in any case; one event or several."""
    shouted = {name.upper(): value for name, value in headers().items()}
    events = millstream.verify_webhook(shouted, EVENTS, SECRET, now_s=AT_S + 299)
    assert [(event.id, event.source, event.data) for event in events] == [
        ("0", "shop", {"n": 0}), ("1", "shop", {"n": 1}),
    ]  # fmt: skip
    one = json.dumps(json.loads(EVENTS)[0]).encode()
    assert len(verify_webhook(headers(one), one, SECRET, now_s=AT_S)) == 1


def test_secrets_can_be_changed_without_a_gap() -> None:
    """The sender signs with both, or the receiver knows both."""
    both = headers(EVENTS, OTHER, SECRET)
    assert both["webhook-signature"].count("v1,") == 2
    for secret in (SECRET, OTHER, [OTHER, SECRET]):
        assert len(verify_webhook(both, EVENTS, secret, now_s=AT_S)) == 2
    assert len(verify_webhook(headers(), EVENTS, [OTHER, SECRET], now_s=AT_S)) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"webhook-signature": SIGNATURE}, "its signature is not of this secret"),
        ({"webhook-signature": "v1,"}, "its signature is not of this secret"),
        ({"webhook-signature": "v1a,ü \x00"}, "its signature is not of this secret"),
        ({"webhook-signature": " ".join(["v1,x"] * 100_000)}, "its signature is not of this secret"),
        ({"webhook-signature": ""}, "it lacks"),
        ({"webhook-id": ""}, "it lacks"),
        ({"webhook-id": "another"}, "its signature is not of this secret"),
        ({"webhook-timestamp": str(AT_S + 1)}, "its signature is not of this secret"),
        ({"webhook-timestamp": str(AT_S - 301)}, "it is 301 s too old \\(tolerance='5m'\\)"),
        ({"webhook-timestamp": str(AT_S + 301)}, "it is 301 s too new"),
        ({"webhook-timestamp": "soon"}, "its webhook-timestamp is no number"),
        ({"webhook-timestamp": "9" * 100}, "its webhook-timestamp is no number"),
        ({"webhook-timestamp": "-1"}, "its webhook-timestamp is no number"),
    ],
)
def test_a_request_that_was_changed_is_refused(change: Mapping[str, str], said: str) -> None:
    """Whatever of it."""
    with pytest.raises(WebhookError, match=said):
        verify_webhook(headers() | dict(change), EVENTS, SECRET, now_s=AT_S)


def test_a_body_that_was_changed_is_refused() -> None:
    """One byte."""
    with pytest.raises(WebhookError, match="its signature"):
        verify_webhook(headers(), EVENTS + b" ", SECRET, now_s=AT_S)
    with pytest.raises(WebhookError, match="its signature"):
        verify_webhook(headers(), EVENTS, OTHER, now_s=AT_S)


@pytest.mark.parametrize("body", [b"", b"\xff", b"3", b"[3]", b"{}", b'[{"id": "x"}]', b"[" * 100_000])
def test_a_signed_body_without_events_is_refused(body: bytes) -> None:
    """Somebody else's webhook with our secret."""
    with pytest.raises(WebhookError, match="it holds no CloudEvents"):
        verify_webhook(headers(body), body, SECRET, now_s=AT_S)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_short", "not base64!", "whsec_" + "A" * 400, "aGVsbG8="]
)
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    """On both sides."""
    with pytest.raises(UsageError, match="the secret") as raised:
        key_of(secret)
    assert not secret or secret not in str(raised.value)
    with pytest.raises(UsageError):
        verify_webhook(headers(), EVENTS, secret, now_s=AT_S)


def test_the_id_of_a_request_is_that_of_its_events() -> None:
    """The same again; an event's own where it can be a part of what is signed."""
    assert webhook_id(["order-7"]) == "order-7"
    ids = [webhook_id(found) for found in (["a.b"], ["a", "b"], ["b", "a"], ["ab"], ["x" * 201], ["a:b"])]
    assert len(set(ids)) == 6
    assert all("." not in one and len(one) <= 200 for one in ids)
    assert webhook_id(["a", "b"]) == webhook_id(["a", "b"])
