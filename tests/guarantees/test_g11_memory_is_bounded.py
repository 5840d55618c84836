"""G11, of producers: memory is bounded in events and in bytes; what happens when a buffer is full is an option."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from pipeline.errors import BufferFull, SendError
from producers.logs import ship_logs
from producers.logs.shipper import end_all
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.follow import follow_file

NOWHERE = "unix:///nonexistent/millstream/no.sock"


@pytest.fixture(autouse=True)
def shippers_end() -> Iterator[None]:
    """The threads of a test end with it."""
    yield
    end_all()


def peak_bytes_of(work: Callable[[], None]) -> int:
    """The most memory that Python objects took meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("size", "held"), [(100, 1_000), (10_000, 200)])
def test_g11_a_producer_without_a_server_holds_so_much_and_no_more(stream: str, size: int, held: int) -> None:
    """Small events are bounded by their number, large ones by their bytes; both count."""
    producer = Producer(NOWHERE, buffer_events=1_000, buffer_bytes="2MB", when_full="fail", send_timeout="1m")
    data = "x" * (size - 40)
    taken = 0

    def fill() -> None:
        nonlocal taken
        while taken < 100_000:
            producer.send(stream, data)
            taken += 1

    with pytest.raises(BufferFull):
        fill()
    assert held <= taken <= held * 1.1
    with pytest.raises(SendError, match=f"{taken:,} sends failed"):
        producer.close(timeout=0)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [0, 50])
def test_g11_dropping_the_oldest_keeps_memory_where_it_is(stream: str, pack: int) -> None:
    """100 MB sent to nowhere, at most 2 MB held; also where data was given as large objects that wait to be packed."""
    producer = Producer(
        NOWHERE,
        buffer_events=100_000,
        buffer_bytes="2MB",
        when_full="drop_oldest",
        send_timeout="1m",
        pack=pack,
    )

    def send() -> None:
        for number in range(10_000):
            producer.send(stream, {"n": number, "text": "x" * 10_000, "more": list(range(50))})

    assert peak_bytes_of(send) < 8_000_000
    assert producer.counts["dropped"] > 9_000
    with pytest.raises(SendError):
        producer.close(timeout=0)


def test_g11_log_lines_for_a_server_that_is_not_there_are_bounded(stream: str) -> None:
    """As queue_bytes says, beside what the producer holds."""
    ship = ship_logs(stream, url=NOWHERE, queue_bytes="2MB", exit="100ms")

    def log() -> None:
        for _ in range(20_000):
            ship(None, "info", {"event": "x" * 5_000})

    assert peak_bytes_of(log) < 30_000_000
    assert ship.shipper.dropped > 15_000


def test_g11_a_file_is_read_no_faster_than_it_is_sent(stream: str, tmp_path: Path) -> None:
    """With nobody to send to, the source stops reading."""
    path = tmp_path / "log"
    with path.open("w") as file:
        for _ in range(50):
            file.write(("x" * 999 + "\n") * 1_000)
    stop = Event()
    producer = Producer(NOWHERE, buffer_bytes="2MB", block="100ms", exit="100ms")
    feeding: list[Fed] = []

    def read() -> None:
        thread = Thread(
            target=lambda: follow_file(
                producer, stream, str(path), follow=False, stop=stop, progress=feeding.append
            )
        )
        thread.start()
        thread.join(2)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()

    assert peak_bytes_of(read) < 16_000_000
    assert 1_000 < feeding[-1].lines < 10_000
    producer.close(timeout=0)  # the source looked after what failed: it is nobody else's business
