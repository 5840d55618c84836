"""The server of a list queue is killed while tasks are pushed, popped and taken: each is there once."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from consumers.list_queue import ListQueue
from tests.conftest import OwnServer
from tests.until import until


@pytest.mark.campaign
@pytest.mark.parametrize("reliable", [False, True])
def test_a_server_is_killed_under_load(
    own_server: OwnServer, stream: str, scaled: Callable[[int], int], reliable: bool
) -> None:
    """kill -9, again and again, of a server that writes through: all that was pushed is popped once, or taken."""
    server = own_server(fsync="always")
    pushed: list[str] = []
    done: list[str] = []
    problems: list[Exception] = []
    over = threading.Event()
    with ListQueue(stream, server.url, claim_after="1s") as queue:

        def push() -> None:
            n = 0
            while not over.is_set():
                queue.push(f"{threading.get_ident()}-{n}")
                pushed.append(f"{threading.get_ident()}-{n}")
                n += 1

        def pop() -> None:
            while not (over.is_set() and len(done) >= len(pushed)):
                if not reliable:
                    done.extend(filter(None, [queue.pop("500ms")]))
                elif (task := queue.take("500ms")) is not None:
                    done.append(task.event.data)
                    task.ack()

        def guarded(act: Callable[[], None]) -> None:
            try:
                act()
            except Exception as error:  # noqa: BLE001 - shown below
                problems.append(error)

        threads = [threading.Thread(target=guarded, args=(act,)) for act in (push, push, pop, pop)]
        for thread in threads:
            thread.start()
        for _ in range(scaled(30)):
            before = len(done)
            until(lambda before=before: len(done) > before + 100, 30)  # type: ignore[misc]
            server.kill()
            server.restart()
        over.set()
        for thread in threads:
            thread.join(40)
        assert not problems
        assert not any(thread.is_alive() for thread in threads)
    found = Counter(done)
    assert set(found) >= set(pushed)
    if not reliable:
        assert max(found.values()) == 1
