"""Lists of other systems, read as they are: their entries are events, and what they do not hold is not made up."""

import base64
import json
from typing import Any

import pytest

from pipeline.event import Event
from pipeline.keys import ListKeys
from pipeline.list_options import WORKERS
from tests.conftest import Server
from tests.lists.beside import NAME, TASK
from tests.lists.classic import PROCESSING, SCHEDULED, ClassicQueue, finish
from tests.lists.conftest import Listing, listing_on
from tests.until import until

RQ_BODY = b"\x80\x05\x95\x1a\x00pickled by RQ"


def test_a_message_of_kombu_is_its_envelope(old_server: Server, client: Any) -> None:
    """What Celery's transport pushes comes as it is: headers with the task's name, and the body in base64."""
    kombu, seen = pytest.importorskip("kombu"), []
    with (
        kombu.Connection(f"redis+socket://{old_server.address.path}") as connection,
        connection.channel() as channel,
        listing_on(old_server.address, "celery") as listing,
    ):
        queue = kombu.Queue("celery", kombu.Exchange("celery"), routing_key="celery", channel=channel)
        kombu.Producer(channel, queue.exchange, queue.routing_key).publish(
            [["ann@example.com"], {}, {}],
            serializer="json",
            headers={"task": "shop.send_email", "id": "7"},
            declare=[queue],
        )
        assert client.llen("celery") == 1
        before = set(client.keys("*"))
        listing.app.consumer(list="celery")(lambda event: seen.append(event.data))
        with listing.running():
            listing.until_gone()
        assert {key for key in client.keys("*") if not key.startswith(b"{celery}:tasks")} == before - {
            b"celery"
        }
    (envelope,) = seen
    assert envelope["headers"]["task"] == "shop.send_email"
    assert json.loads(base64.b64decode(envelope["body"]))[0] == ["ann@example.com"]
    assert {"content-type", "content-encoding", "properties"} <= envelope.keys()


def test_a_job_of_sidekiq_is_its_json(old_server: Server, client: Any) -> None:
    """Sidekiq pushes JSON to queue:<name>: class, args and jid are the event's data."""
    job = {"class": "EmailJob", "args": ["ann@example.com"], "jid": "b4a577edbccf1d805744efa9", "retry": True}
    seen: list[Any] = []
    with listing_on(old_server.address, "queue:default") as listing:
        client.lpush("queue:default", json.dumps(job))
        listing.app.consumer(list="queue:default")(lambda event: seen.append(event.data))
        with listing.running():
            listing.until_gone()
    assert seen == [job]


@pytest.fixture
def rq_job(client: Any) -> str:
    """A job as RQ enqueues it: its id in a list, its body in a hash that expires by RQ's rules alone."""
    job = "3f2b8a50-7a3c-4c8e-9f55-0d6a3b3f7c11"
    client.hset(f"rq:job:{job}", mapping={"data": RQ_BODY, "status": "queued", "origin": "emails"})
    client.rpush("rq:queue:emails", job)
    return job


def test_a_job_of_rq_is_its_id_to_a_handler_of_events(old_server: Server, client: Any, rq_job: str) -> None:
    """The list holds ids: that is what a handler gets. The body stands where RQ keeps it, unread and unchanged."""
    seen: list[Any] = []
    with listing_on(old_server.address, "rq:queue:emails") as listing:
        options = listing.options(push="right")
        listing.app.consumer(list=options)(lambda event: seen.append(event.data))
        with listing.running():
            listing.until_gone()
    assert seen == [rq_job]
    assert client.hget(f"rq:job:{rq_job}", "data") == RQ_BODY


def test_a_job_of_rq_is_a_dead_letter_where_functions_are_wanted(
    old_server: Server, client: Any, rq_job: str
) -> None:
    """An id names no function: it is kept as a dead letter, and says why, instead of being done with."""
    with listing_on(old_server.address, "rq:queue:emails") as listing:

        @listing.app.consumer(list=listing.options(push="right"), function=True, retry=1)
        def send_email(address: str) -> None:
            raise AssertionError("never called")

        with listing.running():
            until(lambda: listing.dead(WORKERS))
        ((letter, fields),) = listing.dead(WORKERS)
    assert "send_email" in letter.message
    assert rq_job.encode() in fields
    assert client.hget(f"rq:job:{rq_job}", "data") == RQ_BODY


def test_no_key_of_ours_is_one_of_theirs(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """While our workers hold, retry and bury tasks, a recoverer of old code finds no record among our keys."""

    @ours.app.consumer(list=NAME, retry=1)
    def work(event: Event) -> None:
        if event.data == "bad":
            raise ValueError("never works")
        ours.go_on.wait(10)

    ours.push(TASK, "bad")
    with ours.running():
        until(lambda: ours.dead(WORKERS))
        assert ours.taken() == 1
        assert finish(old.recover()) == []
        assert not client.llen(NAME)
        keys = {key.decode() for key in client.keys("*")}
        assert keys
        assert all(key.startswith(f"{{{NAME}}}:tasks") for key in keys)
    ours.until_gone()
    named = ListKeys("processing")  # even of a list of that name
    for key in (named.stream, named.hand, named.due, named.seen, named.producer("p"), named.bridge("b")):
        assert not key.startswith((PROCESSING, SCHEDULED))
