"""The programs of docs/from-*.md do what the pages say, to queues that the real RQ, Celery and dramatiq have filled."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain
from kombu.connection import Connection

from millstream import DeadLetters, ListQueue
from tests.conftest import OwnServer, Server
from tests.until import until

ROOT = Path(__file__).parents[2]
PAGES = ("from-rq.md", "from-celery.md", "from-dramatiq.md", "from-lists.md")
URL = "redis://localhost:6379/0"
"""What the pages call the server."""


def programs(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def program(page: str, name: str) -> str:
    """The block that begins with `# name`."""
    return next(block for block in programs(page) if block.startswith(f"# {name}\n"))


class Place:
    """A folder with programs of the pages, and a server of their own."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.url = f"unix://{server.address.path}"
        self.redis: Any = redis.Redis.from_url(self.url)
        self.done = folder / "done"
        self.done.touch()

    def write(self, name: str, text: str) -> None:
        """A program, with the server's address in it."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text).replace(URL, self.url), encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """Of the programs: ours first, then their neighbours, and where they write what they did."""
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        return os.environ | {"PYTHONPATH": path, "DONE": str(self.done), "MILLSTREAM_URL": self.url}

    def run(self, *command: str) -> str:
        """A program to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """A program until SIGTERM, which it ends well on."""
        log = self.folder / "log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
        assert code == 0, log.read_text()

    def did(self) -> list[str]:
        """What was done, in the order of its lines' text."""
        return sorted(self.done.read_text().splitlines())

    def waits_for(self, count: int) -> list[str]:
        """What was done, once it is so much."""
        until(lambda: len(self.did()) >= count, 30, what=lambda: f"{self.did()} {self.log()}")
        return self.did()

    def log(self) -> str:
        """What the programs that ran said."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def place(own_server: OwnServer, tmp_path: Path) -> Place:
    """A server and a folder of this test's own."""
    return Place(tmp_path, own_server())


def noting(signature: str) -> str:
    """A function of the old system that writes down what it was called with."""
    return f"""
        import os

        def send_email{signature}:
            with open(os.environ["DONE"], "a") as file:
                file.write(f"{{to}} {{body}}\\n")
    """


@pytest.mark.parametrize("page", PAGES)
def test_every_program_is_valid_python(page: str) -> None:
    """No block of a page has a typo that stops it from being compiled."""
    for block in programs(page):
        compile(block, page, "exec")


def test_the_list_worker_of_the_rq_page(place: Place) -> None:
    """Both pushes run the function: one at once, one when it is due."""
    worker, push = (block for block in programs("from-rq.md")[:2])
    place.write("mail.py", worker.replace('print("sent", to, body)', "note(to, body)") + NOTE)
    place.write("push.py", push.replace('"10m"', '"1s"'))
    place.run("push.py")
    with place.running("-m", "millstream", "run", "mail:app"):
        assert place.waits_for(2) == ["ann hi", "bob "]


NOTE = """
def note(to, body):
    import os
    with open(os.environ["DONE"], "a") as file:
        file.write(f"{to} {body}\\n")
"""


def test_the_programs_of_the_lists_page(place: Place) -> None:
    """What push.py pushes is done by work.py, or over the bridge by stream.py, as is what send.py sends."""
    for name in ("work.py", "push.py", "stream.py", "send.py"):
        text = program("from-lists.md", name).replace('"10m"', '"1s"')
        noted = 'note("stream", to)' if name == "stream.py" else "note(to, body)"
        text = text.replace('print("sent", to, body)', noted)
        place.write(name, text + NOTE)
    with place.running("-m", "millstream", "run", "work:app"):
        place.run("push.py")
        assert place.waits_for(2) == ["ann ", "bob "]
    place.run("push.py")
    place.run("send.py")
    place.run("-m", "millstream", "queue", "bridge", "emails", "--to", "emails-stream", "--once")
    with place.running("-m", "millstream", "run", "stream:app"):
        assert place.waits_for(4) == ["ann ", "bob ", "stream ann", "stream ann"]


def test_what_rq_has_scheduled_is_moved_with_its_time(place: Place) -> None:
    """What RQ enqueued for later is a delayed task of ours, due at the same time; RQ has nothing left of it."""
    from rq import Queue

    place.write("mail.py", noting('(to, body="")'))
    place.write("move_scheduled.py", program("from-rq.md", "move_scheduled.py"))
    old: Any = Queue("emails", connection=place.redis)
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    for n in range(10):
        old.enqueue_at(due, "mail.send_email", f"a-{n}", body="hi")
    place.run("move_scheduled.py")
    assert place.redis.keys("rq:job:*") == []
    assert old.scheduled_job_registry.count == 0
    with ListQueue("emails", place.url) as emails:
        assert [(one.key, one.count) for one in emails.status().scheduled] == [(emails.options.keys.due, 10)]
        assert emails.status().scheduled[0].next_due_ms == due.timestamp() * 1_000


def celery_tasks(place: Place) -> Celery:
    """Who enqueues: the real thing, with its defaults."""
    place.write("shop/__init__.py", "")
    place.write("shop/tasks.py", noting('(to, body="")'))
    return Celery(broker=f"redis+socket://{place.server.address.path}")


def test_the_handler_of_the_celery_page_runs_what_celery_enqueued(place: Place) -> None:
    """Each task runs once, with its arguments; one with an ETA when it is due, an expired one never."""
    asking = celery_tasks(place)
    name = "shop.tasks.send_email"
    for n in range(20):
        asking.send_task(name, [f"a-{n:02}"], {"body": "hi"})
    asking.send_task(name, ["later"], countdown=1)
    asking.send_task(name, ["expired"], expires=datetime.now(UTC) - timedelta(hours=1))
    asking.send_task("shop.tasks.gone", ["x"])
    chain(
        asking.signature(name, ["first"], immutable=True), asking.signature(name, ["second"], immutable=True)
    ).apply_async()
    asking.close()
    place.write("drain.py", program("from-celery.md", "drain.py"))
    with place.running("-m", "millstream", "run", "drain:app"):
        assert place.waits_for(21) == [f"a-{n:02} hi" for n in range(20)] + ["later "]
        until(lambda: place.redis.llen("celery") == 0)
    stream = ListQueue("celery", place.url).options.keys.stream
    with DeadLetters(stream, "workers", url=place.url) as dead:
        reasons = sorted(letter.reason for letter in dead.find())
    assert reasons == [
        "cannot run shop.tasks.gone",
        "part of a chain, chord or link, which only Celery can go on with",
    ]


def test_what_our_workers_have_not_begun_is_celerys_again(place: Place) -> None:
    """Stopped, a worker of ours leaves the list as it found it, and Celery's own client reads it."""
    asking = celery_tasks(place)
    for n in range(30):
        asking.send_task("shop.tasks.send_email", [f"a-{n:02}"])
    asking.close()
    slow = program("from-celery.md", "drain.py").replace(
        "    headers, now =", "    sleep(0.3)\n    headers, now ="
    )
    place.write("drain.py", "from time import sleep\n" + slow)
    with place.running("-m", "millstream", "run", "drain:app"):
        place.waits_for(1)
    did, left = place.did(), []
    connecting: Any = Connection
    with connecting(f"redis+socket://{place.server.address.path}") as connection:
        queue = connection.SimpleQueue("celery")
        for _ in range(place.redis.llen("celery")):
            message = queue.get(timeout=5)
            left.append(message.payload[0][0])
            message.ack()
        queue.close()
    assert left
    assert left == sorted(left), "the next task first, as they were enqueued"
    assert sorted([line.split()[0] for line in did] + left) == [f"a-{n:02}" for n in range(30)]


def test_what_dramatiq_keeps_is_moved(place: Place) -> None:
    """Messages are tasks, in order; delayed ones with their time. What is part of a pipeline stays."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    made: Any = RedisBroker
    broker = made(url=place.url)
    sent: Any = dramatiq.actor(broker=broker, actor_name="send_email")(print)
    for n in range(20):
        sent.send(f"a-{n:02}", body="hi")
    sent.send_with_options(args=("later",), delay=3_600_000)
    pipeline: Any = dramatiq.pipeline
    pipeline([sent.message("one"), sent.message("two")], broker=broker).run()
    broker.close()
    place.write("move.py", program("from-dramatiq.md", "move.py"))
    place.run("move.py")
    assert place.redis.hlen("dramatiq:default.msgs") == place.redis.llen("dramatiq:default") == 1
    assert place.redis.hlen("dramatiq:default.DQ.msgs") == place.redis.llen("dramatiq:default.DQ") == 0
    with ListQueue("emails", place.url) as emails:
        assert [one.count for one in emails.status().scheduled] == [1]
        assert [emails.pop(1) for _ in range(20)] == [
            {"function": "send_email", "args": [f"a-{n:02}"], "kwargs": {"body": "hi"}} for n in range(20)
        ]


def test_a_dramatiq_worker_that_holds_messages_is_named(place: Place) -> None:
    """What a worker was sent stays its own: nothing is moved."""
    place.redis.sadd("dramatiq:__acks__.dcac067c-1248-4007-84da-bb999fb51ffe.default", "7")
    place.write("move.py", program("from-dramatiq.md", "move.py"))
    with pytest.raises(AssertionError, match="dcac067c-1248-4007-84da-bb999fb51ffe"):
        place.run("move.py")
