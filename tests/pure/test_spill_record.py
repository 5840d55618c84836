"""Records of a spill file: whatever a file was cut to and whatever became of its bytes, what is whole is found."""

import random

from hypothesis import given
from hypothesis import strategies as st

from producers.spill.record import MARK, Record, find_records

RECORDS = st.lists(
    st.builds(
        Record,
        st.integers(0, 2**64 - 1),
        st.integers(1, 500),
        st.binary(max_size=40),
        st.binary(max_size=200),
    ),
    max_size=6,
)


def read(data: bytes, pieces: list[int]) -> tuple[list[Record], int]:
    """All records of a file read in pieces of these sizes, then as large as they are wanted; and the bytes of none."""
    records: list[Record] = []
    at = damaged = 0
    sizes = iter(pieces)
    wanted = 0
    while at < len(data):
        size = max(next(sizes, len(data)), wanted)
        piece = data[at : at + size]
        found = find_records(piece, at_end=at + len(piece) >= len(data))
        records += [record for record, _ in found.records]
        damaged += found.damaged_bytes
        at += found.end
        wanted = max(found.wanted_bytes, size + 1 if not found.end else 0)
    return records, damaged


@given(RECORDS, st.lists(st.integers(1, 100), max_size=20))
def test_what_is_written_is_read_in_pieces_of_any_size(records: list[Record], pieces: list[int]) -> None:
    """Each record once, in order."""
    assert read(b"".join(record.encode() for record in records), pieces) == (records, 0)


@given(RECORDS, st.data())
def test_a_file_cut_anywhere_has_all_records_that_are_whole(
    records: list[Record], data: st.DataObject
) -> None:
    """The torn one is passed over."""
    whole = b"".join(record.encode() for record in records)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [
        len(b"".join(record.encode() for record in records[: count + 1])) for count in range(len(records))
    ]
    kept = [record for record, end in zip(records, ends, strict=True) if end <= cut]
    found, damaged = read(whole[:cut], [])
    assert found == kept
    assert damaged == cut - (ends[len(kept) - 1] if kept else 0)


def test_a_damaged_byte_costs_the_record_it_is_in() -> None:
    """Wherever it is, and also where what is left looks like the beginning of a record."""
    generator = random.Random(7)
    records = [
        Record(number, 3, MARK + generator.randbytes(20), generator.randbytes(30) + MARK + b"\xff" * 30)
        for number in range(1, 16, 3)
    ]
    data = b"".join(record.encode() for record in records)
    size = len(data) // len(records)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << generator.randrange(8)
        found, damaged = read(bytes(changed), [100, 70, 300])
        assert found == [record for index, record in enumerate(records) if index != at // size]
        assert damaged == size


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=10))
def test_any_bytes_are_read_to_their_end(data: bytes, pieces: list[int]) -> None:
    """And hold no record, unless by a checksum that fits."""
    found, damaged = read(MARK.join((data, data)), pieces)
    assert found == []
    assert damaged == 2 * len(data) + len(MARK)
