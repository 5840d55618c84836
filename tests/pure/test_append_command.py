"""The append command: packed in bulk, it has the bytes that hiredis gives it word by word."""

from collections.abc import Sequence

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from pipeline.keys import StreamKeys
from pipeline.server.append import MANY_SIZES, AppendOptions, OneAppend, append_command, pack_words
from pipeline.server.scripts import script

KEYS = StreamKeys("büro:orders")
OPTIONS = AppendOptions(expiry_ms=60_000, dedupe_for_ms=5_000, max_stream_entries=77)
LARGE = st.integers(MANY_SIZES - 2, MANY_SIZES + 2).map(lambda size: b"\r" * size)
VALUES = st.binary(max_size=300) | LARGE
PLAIN = st.lists(st.tuples(VALUES, VALUES).map(list), min_size=1, max_size=20)
FIELDS = st.lists(st.lists(st.binary(max_size=20), min_size=2, max_size=12), min_size=1, max_size=5)
POSITIONS = st.tuples(st.sampled_from(["", "file:ü"]), st.text(max_size=9), st.text(min_size=1, max_size=9))


def packed(*words: str | bytes) -> bytes:
    """The command as hiredis packs it."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return command


@given(st.lists(VALUES, min_size=1, max_size=30))
def test_words_are_packed_as_hiredis_packs_them(words: Sequence[bytes]) -> None:
    """Whatever they hold, and however long they are."""
    assert pack_words(words) == packed(*words)


@given(PLAIN, st.integers(1, 2**63), st.sets(st.integers(0, 19)), POSITIONS, st.booleans(), st.data())
def test_a_batch_of_plain_entries_is_the_command_that_the_script_reads(
    entries: list[list[bytes]],
    number: int,
    marked: set[int],
    position: tuple[str, str, str],
    renew: bool,
    data: st.DataObject,
) -> None:
    """With ids to deduplicate by and a source or without, its values in one piece or in several."""
    ids = {index: f"id:{index}" for index in marked if index < len(entries)}
    source, before, after = position
    flat = [value for entry in entries for value in entry]
    which = [str(index + 1) for index in sorted(ids)]
    cut = 2 * data.draw(st.integers(0, len(entries)))
    command = append_command(
        KEYS, "p", number=number, base=number - 1, values=[flat[:cut], flat[cut:]], entries=len(entries),
        renew=renew, ids=ids, source=source, before=before, after=after, options=OPTIONS,
    )  # fmt: skip
    names = [
        *(KEYS.stream, KEYS.producer("p"), KEYS.source(source) if source else KEYS.never),
        *(KEYS.ids(ids[index]) for index in sorted(ids)),
    ]
    assert command == packed(
        *("EVALSHA", script("append").sha, str(len(names)), *names),
        *(str(number), str(number - 1), "60000", "1" if renew else "0", "77", "5000"),
        *(before if source else "", after if source else ""),
        *("1", str(len(entries)), "0", *which),
        *flat,
    )


@given(FIELDS)
def test_a_batch_of_entries_with_fields_of_their_own_says_how_many_each_has(
    entries: list[list[bytes]],
) -> None:
    """What codec=fields sends."""
    command = append_command(KEYS, "p", number=3, base=3, values=entries, entries=len(entries), plain=False)
    words: list[str | bytes] = []
    for entry in entries:
        words += [str(len(entry)), *entry]
    assert command == packed(
        *("EVALSHA", script("append").sha, "3", KEYS.stream, KEYS.producer("p"), KEYS.never),
        *("3", "3", "86400000", "1", "0", "86400000", "", "", "0", str(len(entries)), "0", *words),
    )


@given(VALUES, VALUES, st.integers(1, 2**62 - 1), st.integers(0, 16), st.booleans())
def test_one_entry_is_the_same_command_packed_in_fewer_steps(
    header: bytes, body: bytes, number: int, behind: int, renew: bool
) -> None:
    """What never changes is packed once."""
    base = max(number - behind, 1)
    assert OneAppend(KEYS, "p", OPTIONS).command(number, base, header, body, renew=renew) == append_command(
        KEYS, "p", number=number, base=base, values=[[header, body]], entries=1, renew=renew, options=OPTIONS
    )
