"""The demo's comparison: what was confirmed against what each group wrote, id by id."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.demo.account import AccountReader, AccountWriter, Confirmed, Handled
from console.demo.ledger import Ids, Ledger, compare

pytestmark = pytest.mark.pure

CONFIRMED = [(f"p-{n}", f"{1_700_000_000_000 + n}-0") for n in range(1, 101)]
ALL = [(event_id, False) for event_id, _ in CONFIRMED]


def test_nothing_is_lost_when_every_group_wrote_every_id() -> None:
    """The good case counts each event once."""
    counts = compare(CONFIRMED, {"archive": ALL, "alerts": ALL}, {}).counts()
    for group in ("archive", "alerts"):
        assert (counts[group].handled, counts[group].redelivered, counts[group].lost) == (100, 0, 0)


@pytest.mark.parametrize("missing", [0, 41, 99])
def test_a_line_taken_from_an_account_is_a_loss(missing: int) -> None:
    """The comparison finds the one id that one group did not write, and names it."""
    without = ALL[:missing] + ALL[missing + 1 :]
    ledger = compare(CONFIRMED, {"archive": ALL, "alerts": without}, {})
    assert ledger.lost() == {"archive": [], "alerts": [f"p-{missing + 1}"]}
    assert ledger.counts()["alerts"].lost == 1
    assert ledger.handled_by_all == 99


def test_a_loss_is_not_made_good_by_something_handled_twice() -> None:
    """As many lines as events prove nothing."""
    lines = [*ALL[1:], ALL[5]]
    counts = compare(CONFIRMED, {"archive": lines}, {}).counts()["archive"]
    assert (counts.handled, counts.redelivered, counts.lost) == (99, 1, 1)


def test_a_dead_letter_is_not_lost() -> None:
    """It is known by its entry, since a corrupt event may not tell its id."""
    counts = compare(CONFIRMED, {"archive": ALL[:-1]}, {"archive": [CONFIRMED[-1][1]]}).counts()["archive"]
    assert (counts.handled, counts.dead, counts.lost) == (99, 1, 0)


def test_a_replay_is_no_redelivery() -> None:
    """Somebody asked for it."""
    counts = compare(CONFIRMED, {"alerts": [*ALL, ("p-7", True), ("p-8", True)]}, {}).counts()["alerts"]
    assert (counts.handled, counts.redelivered, counts.replayed) == (100, 0, 2)


@given(st.permutations([*ALL[:8], *((event_id, True) for event_id, _ in CONFIRMED[:5]), ALL[6]]))
def test_replays_are_told_from_redeliveries_in_any_order(lines: list[tuple[str, bool]]) -> None:
    """One worker's account may name the replay before another's names the first handling."""
    counts = compare(CONFIRMED[:8], {"alerts": lines}, {}).counts()["alerts"]
    assert (counts.handled, counts.redelivered, counts.replayed, counts.others) == (8, 1, 5, 0)


def test_events_of_an_earlier_run_are_counted_apart() -> None:
    """They do not make up for what is missing of this one."""
    counts = compare(CONFIRMED, {"archive": [*ALL[1:], ("old-1", False)]}, {}).counts()["archive"]
    assert (counts.handled, counts.lost, counts.others) == (99, 1, 1)


def test_what_is_settled_and_nowhere_written_is_found_while_all_goes_on() -> None:
    """Up to the entry id that a group has settled, nothing may be missing."""
    ledger = Ledger(["archive"])
    for event_id, entry_id in CONFIRMED:
        ledger.confirm(event_id, entry_id)
    for event_id, _ in ALL[1:50]:
        ledger.groups["archive"].handle(event_id, replayed=False)
    assert ledger.groups["archive"].missing((1_700_000_000_049, 0)) == ["p-1"]
    assert ledger.groups["archive"].missing((0, 0)) == []


@given(st.permutations(["confirm", "handle", "bury"]), st.booleans(), st.booleans())
def test_the_order_of_the_accounts_does_not_matter(order: list[str], handles: bool, buries: bool) -> None:
    """A worker may write before the sender has heard that its event is confirmed."""
    ledger = Ledger(["g"])
    for step in order:
        if step == "confirm":
            ledger.confirm("p-1", "5-1")
        elif step == "bury" and buries:
            ledger.groups["g"].bury("5-1")
        elif step == "handle" and handles:
            ledger.groups["g"].handle("p-1", replayed=False)
    counts = ledger.counts()["g"]
    dead = buries and not handles
    assert (counts.handled, counts.dead, counts.lost) == (handles, dead, not handles and not dead)


@given(st.lists(st.text(max_size=12) | st.from_regex(r"[ab]-0?[0-9]{1,12}", fullmatch=True)))
def test_ids_are_counted_as_they_are_written(ids: list[str]) -> None:
    """`p-7` and `p-07` are two ids; how they are kept does not show."""
    seen = Ids()
    for event_id in ids:
        seen.add(event_id)
    assert {event_id: seen.count(event_id) for event_id in ids} == {one: ids.count(one) for one in ids}
    assert seen.distinct == len(set(ids))


def test_an_account_is_read_line_by_line_as_it_grows(tmp_path: Path) -> None:
    """Half a line is not read before its end is there."""
    path = tmp_path / "account"
    reader = AccountReader(path)
    assert list(reader.new_lines()) == []
    writer = AccountWriter(path)
    writer.write([Confirmed("p-1", "5-1"), Confirmed("odd id\n%", "5-2")])
    lines = [Confirmed.parse(line) for line in reader.new_lines()]
    assert lines == [Confirmed("p-1", "5-1"), Confirmed("odd id\n%", "5-2")]
    line = Handled("p-1", 1_700_000_000_000, replayed=True).line()
    with path.open("a") as file:
        file.write(line[:9])
        file.flush()
        assert list(reader.new_lines()) == []
        file.write(line[9:])
    assert [Handled.parse(line) for line in reader.new_lines()] == [Handled("p-1", 1_700_000_000_000, True)]
    writer.close()
