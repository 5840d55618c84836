"""Window: bounded in events and bytes, whatever is read, taken, settled and lost."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.window import MAX_EVENTS, RATE_SAMPLE_MS, WORK_MS, Held, Window
from pipeline.envelope import Again
from pipeline.keys import GroupRef, StreamKeys

REF = GroupRef(StreamKeys("s"), "g")
AGAIN = GroupRef(StreamKeys("s"), "g", again=True)


def held(number: int, *, size: int = 100, ref: GroupRef = REF, deliveries: int = 1, now_ms: int = 0) -> Held:
    """An entry of so many bytes."""
    return Held(
        ref, b"%d-0" % number, [b"b", b"x" * (size - 1)], token="t", deliveries=deliveries, now_ms=now_ms
    )


def window(**options: int | None) -> Window:
    """A window; unbounded in bytes unless said otherwise."""
    given_options = {"least_events": 16, "fixed_events": None, "max_bytes": 1 << 40, **options}
    return Window(**given_options)  # type: ignore[arg-type]


def test_room_is_what_is_left_of_the_window() -> None:
    """Entries held count until they are removed."""
    one = window(fixed_events=10)
    entries = [held(number) for number in range(10)]
    for entry in entries:
        one.add(entry)
        one.counted(entry, 1)
        assert one.room() == 10 - len(one)
    assert (one.room(), len(one), one.events) == (0, 10, 10)
    assert one.remove(entries[3])
    assert not one.remove(entries[3])
    assert (one.room(), len(one), one.events) == (1, 9, 9)


def test_the_same_id_in_two_streams_is_two_entries() -> None:
    """The stream and the group's own `again` stream number their entries on their own."""
    one = window()
    first, second = held(1), held(1, ref=AGAIN)
    one.add(first)
    one.add(second)
    assert one.get(REF, b"1-0") is first
    assert one.get(AGAIN, b"1-0") is second
    assert set(one) == {first, second}


def test_packs_count_by_their_events() -> None:
    """And the room shrinks to fit entries of that size."""
    one = window(fixed_events=1_000)
    for number in range(9):
        pack = held(number)
        one.add(pack)
        one.counted(pack, 100)
    assert one.events == 900
    assert 1 <= one.room() < 10
    for pack in one:
        one.remove(pack)
    assert (one.events, one.bytes) == (0, 0)


def test_the_first_entries_are_taken_for_packs() -> None:
    """Before one is decoded: a first read of many packs would keep them from the other members."""
    packs, singles = window(fixed_events=300), window(fixed_events=300)
    assert (packs.room(), window(fixed_events=10).room()) == (3, 1)
    for one, events in ((packs, 100), (singles, 1)):
        first = held(0)
        one.add(first)
        assert one.room() <= 2
        one.counted(first, events)
    assert (packs.room(), singles.room()) == (2, 299)


def test_packs_that_are_not_decoded_yet_count_as_those_before_them() -> None:
    """The next read is sent before the last one is decoded: it must not find room that is not there."""
    one = window(fixed_events=1_000)
    for number in range(50):
        pack = held(number)
        one.add(pack)
        one.counted(pack, 100)
        one.remove(pack)
    fresh = held(50)
    one.add(fresh)
    assert 90 <= one.events <= 110
    one.counted(fresh, 7)
    assert one.events == 7


def test_bytes_bound_the_room_too() -> None:
    """Large entries fill the window though they are few; at least one is read while there is any room."""
    one = window(fixed_events=1_000, max_bytes=10_000)
    for number in range(9):
        one.add(held(number, size=1_000))
        assert one.room() >= 1
    assert one.room() == 1
    one.add(held(9, size=1_000))
    assert one.room() == 0


def test_room_is_never_more_than_a_thousand_entries() -> None:
    """One read keeps the server busy for so long and no longer."""
    assert window(fixed_events=100_000).room() == 1_000


def test_the_window_grows_to_a_second_of_measured_work() -> None:
    """Fast handlers never wait for a read; it never grows beyond its bound, and never shrinks below its least."""
    one = window(least_events=16)
    assert one.most_events == 16
    now_ms = 1_000
    for _ in range(50):
        now_ms += RATE_SAMPLE_MS
        one.finished(200, now_ms)
    assert 1_500 <= one.most_events <= 2_500  # 2 events a ms, for WORK_MS
    for _ in range(50):
        now_ms += RATE_SAMPLE_MS
        one.finished(10**6, now_ms)
    assert one.most_events == MAX_EVENTS
    for _ in range(300):
        now_ms += RATE_SAMPLE_MS
        one.finished(0, now_ms)
    assert one.most_events == 16
    assert WORK_MS == 1_000


def test_a_fixed_window_does_not_grow() -> None:
    """window_events is what the user says."""
    one = window(fixed_events=10)
    for step in range(1, 100):
        one.finished(10**6, step * RATE_SAMPLE_MS)
    assert one.most_events == 10


def test_suspects_bound_what_may_be_held_beside_them() -> None:
    """The narrowest counts; settled, they bound nothing any more."""
    one = window()
    assert one.limit() is None
    first, second = held(1), held(2)
    for entry, limit in ((first, 100), (second, 10)):
        one.add(entry)
        one.suspect(entry, limit)
    assert one.limit() == 10
    one.remove(second)
    assert one.limit() == 100
    one.remove(first)
    assert one.limit() is None


def test_what_is_due_for_renewal_was_not_renewed_for_a_third_of_claim_after() -> None:
    """Read just now, or renewed just now, it is not."""
    one = window()
    old, renewed, young = held(1, now_ms=0), held(2, now_ms=0), held(3, now_ms=900)
    for entry in (old, renewed, young):
        one.add(entry)
    renewed.renewed_ms = 900
    assert one.due_for_renewal(999, 3_000) == []
    assert one.due_for_renewal(1_000, 3_000) == [old]
    assert one.due_for_renewal(1_900, 3_000) == [old, renewed, young]


def test_attempts_and_crashes_add_up_across_entries() -> None:
    """What an `again` entry carries, plus what its own deliveries tell."""
    entry = held(1, deliveries=3)
    assert (entry.attempt, entry.crashes) == (3, 2)
    entry.again = Again(runs=4, crashes=1, stream="s", entry_id="1-1")
    assert (entry.attempt, entry.crashes) == (7, 3)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(1, 5_000), st.integers(1, 50)),
            st.tuples(st.just("settle"), st.integers(0, 100), st.just(0)),
        ),
        max_size=200,
    )
)
def test_counts_are_those_of_what_is_held(steps: list[tuple[str, int, int]]) -> None:
    """However entries come and go: events, bytes and room never drift."""
    one = window(fixed_events=50, max_bytes=20_000)
    model: list[Held] = []
    for number, (step, amount, events) in enumerate(steps):
        if step == "read" and one.room():
            entry = held(number, size=amount + 1)
            one.add(entry)
            one.counted(entry, events)
            model.append(entry)
        elif step == "settle" and model:
            one.remove(model.pop(amount % len(model)))
        assert one.events == sum(entry.events for entry in model)
        assert one.bytes == sum(entry.size for entry in model)
        assert len(one) == len(model)
        full = one.events >= 50 or one.bytes >= 20_000
        assert (one.room() == 0) == full


@given(st.lists(st.integers(2, 5_000), max_size=20), st.sampled_from([1, 3]))
def test_an_entry_alone_is_counted_as_a_read_of_one(sizes: list[int], events: int) -> None:
    """In fewer steps, and only once."""
    one, many = window(), window()
    for each in (one, many):
        first = held(1_000)
        each.add(first)
        each.counted(first, events)
    for number, size in enumerate(sizes):
        entry = held(number, size=size)
        assert one.add_one(entry)
        assert not one.add_one(held(number))
        many.add_all([held(number, size=size)])
        assert (len(one), one.events, one.bytes) == (len(many), many.events, many.bytes)
        assert abs(one.entry_bytes - many.entry_bytes) < 0.01
        assert one.get(REF, entry.entry_id) is entry
