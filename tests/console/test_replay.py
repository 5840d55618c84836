"""millstream replay: history goes to one group again, after its plan was shown, and no other group sees it."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from console.cli.progress import bar_line
from pipeline.envelope import DeadLetter, dead_fields, read_again
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.replayed import read_replayed
from pipeline.server.connect import Link
from pipeline.server.groups import join
from pipeline.wire import encode_entry, encode_pack
from tests.console.command import here, started
from tests.until import until


@pytest.fixture
def history(stream: str, link: Link) -> list[str]:
    """The ids of ten entries, the last of them a pack of three; groups `g` and `other` have settled them all."""
    ids = []
    for n in range(9):
        event = Event({"n": n}, type="even" if n % 2 == 0 else "odd", key=f"k{n % 3}")
        fields = encode_entry(event, producer="p", number=n)
        ids.append(link.call("XADD", stream, f"{10_001 + n}-0", *fields).decode())
    pack = encode_pack([Event({"n": n}, type="pack") for n in range(9, 12)], producer="p", first_number=9)
    ids.append(link.call("XADD", stream, "10010-0", *pack).decode())
    for group in ("g", "other"):
        join(link, StreamKeys(stream), group, start="10010-0", lost=False)
    return ids


def again(link: Link, stream: str, group: str) -> list[str]:
    """Entry ids (with the index in a pack) of what a group is to run again."""
    found = []
    for _, fields in link.call("XRANGE", StreamKeys(stream).again(group), "-", "+"):
        envelope, _ = read_again(fields)
        assert envelope is not None
        found.append(f"{envelope.entry_id}#{envelope.index}")
    return found


def said_of(link: Link, stream: str) -> set[str]:
    """What the events that `g` is to run again say of their replay."""
    said = set()
    for _, fields in link.call("XRANGE", StreamKeys(stream).again("g"), "-", "+"):
        envelope, _ = read_again(fields)
        replayed = read_replayed(envelope.why) if envelope is not None else None
        assert replayed is not None
        said.add(f"{replayed.id} {'again' if replayed.again else 'once'} {replayed.what}")
    return said


def test_a_range_goes_to_one_group(history: list[str], stream: str, url: str, link: Link) -> None:
    """Each event once, those of a pack on their own; the other group has nothing."""
    ran = here("replay", stream, "g", "--from", history[7], "--execute", "--json", url=url)
    assert (ran.code, ran.json["entries"], ran.json["events"], ran.json["handed_over"]) == (0, 3, 5, 5)
    assert again(link, stream, "g") == ["10008-0#0", "10009-0#0", "10010-0#0", "10010-0#1", "10010-0#2"]
    assert again(link, stream, "other") == []
    assert here("group", "show", stream, "g", "--json", url=url).json["waiting"] == 5
    assert "3 entries with 5 events" in ran.err
    assert "5 events of these: to group g again" in ran.err
    assert "no member of group g is alive" in ran.err
    assert f"--resume {ran.json['replay']} --execute" in ran.err
    assert said_of(link, stream) == {f"{ran.json['replay']} once range 10008-0 to 10010-0"}


@pytest.mark.parametrize(
    ("start", "end", "ids"),
    [
        ("start", "10002-0", ["10001-0#0", "10002-0#0"]),
        ("10004-0", "10004-0", ["10004-0#0"]),
        ("10005", "10006", ["10005-0#0"]),
        ("1970-01-01T00:00:10.003+00:00", "1970-01-01T00:00:10.005+00:00", ["10003-0#0", "10004-0#0"]),
    ],
)
def test_both_ends_are_what_they_say(
    start: str, end: str, ids: list[str], history: list[str], stream: str, url: str, link: Link
) -> None:
    """An entry id means that entry too; a time means all before it."""
    assert here("replay", stream, "g", "--from", start, "--to", end, "--execute", url=url).code == 0
    assert again(link, stream, "g") == ids


@pytest.mark.parametrize(
    ("args", "ids"),
    [
        (("--type", "od*"), ["10002-0#0", "10004-0#0", "10006-0#0", "10008-0#0"]),
        (("--type", "odd", "--key", "k0"), ["10004-0#0"]),
        (("--type", "odd", "--type", "pack", "--match", '/"n": (1|1.)}/'), ["10002-0#0", "10010-0#1", "10010-0#2"]),
    ],
)  # fmt: skip
def test_filters_select_single_events(
    args: tuple[str, ...], ids: list[str], history: list[str], stream: str, url: str, link: Link
) -> None:
    """The plan says how many of how many, and by what; each event says it too."""
    plan = here("replay", stream, "g", "--from", "start", *args, url=url)
    assert plan.code == 6
    assert "10 entries with 12 events" in plan.err
    assert f"{len(ids)} event" in plan.err
    assert again(link, stream, "g") == []
    ran = here("replay", stream, "g", "--from", "start", *args, "--execute", "--json", url=url)
    assert (ran.code, ran.json["selected"], ran.json["events"]) == (0, len(ids), 12)
    assert again(link, stream, "g") == ids
    ((said),) = said_of(link, stream)
    assert "range 0-0 to 10010-0, type od" in said


def test_filters_that_take_nothing_need_no_consent(history: list[str], stream: str, url: str) -> None:
    """Nothing is done, and that is no failure."""
    ran = here("replay", stream, "g", "--from", "start", "--type", "refund", url=url)
    assert ran.code == 0
    assert "none of the 12 events is selected" in ran.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--from", "end"), "--from=end --to=end: the range holds no entry; stream"),
        (("--from", "-15m"), "holds entries 10001-0 to 10010-0"),
        (("--from", "10005-0", "--to", "10004-0"), "--from=10005-0 --to=10004-0: the range is reversed"),
        ((), "missing option '--from': an entry id"),
        (("--from", "yesterday"), "--from='yesterday' is not a position"),
        (("--from", "start", "--rate", "0/s"), "--rate='0/s' is out of range: above 0, at most 1,000,000 a second"),
        (("--from", "start", "--rate", "quick"), "--rate='quick' is not a rate (write 500/s"),
        (("--from", "start", "--match", "/(/"), "--match='/(/' is no regular expression"),
        (("--from", "start", "--resume", "1f"), "no --from, --to, filter or --again"),
        (("--resume", "1f", "--again"), "no --from, --to, filter or --again"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused(
    args: tuple[str, ...], said: str, history: list[str], stream: str, url: str, link: Link
) -> None:
    """With the option's name and what it may be."""
    ran = here("replay", stream, "g", *args, "--execute", url=url)
    assert ran.code == 2
    assert said in ran.error
    assert again(link, stream, "g") == []


def test_what_is_not_there_is_said(history: list[str], stream: str, url: str) -> None:
    """Group, stream, replay; each with what shows the ones there are."""
    ran = here("replay", stream, "nobody", "--from", "start", "--execute", url=url)
    assert (ran.code, "has no group 'nobody'" in ran.error) == (3, True)
    ran = here("replay", f"{stream}-x", "g", "--from", "start", "--execute", url=url)
    assert (ran.code, "there is no stream" in ran.error) == (3, True)
    ran = here("replay", stream, "g", "--resume", "ffff", "--execute", url=url)
    assert (ran.code, "has no replay 'ffff'" in ran.error) == (3, True)
    for source in ("pending", "dead", "ls"):
        assert here("replay", source, stream, "nobody", url=url).code == 3


def test_what_was_not_read_yet_is_warned_about(history: list[str], stream: str, url: str, link: Link) -> None:
    """It would be handled twice; so may what is in the group's hands."""
    link.call("XADD", stream, "20001-0", "a", "b")
    link.call("XADD", stream, "20002-0", "a", "b")
    link.call("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", stream, ">")
    ran = here("replay", stream, "g", "--from", "start", url=url)
    assert ran.code == 6
    assert "has not read 1 of them yet: it will handle them twice" in ran.err
    assert "has 1 of them in its hands" in ran.err
    assert again(link, stream, "g") == []


def test_what_is_gone_is_said(history: list[str], stream: str, url: str, link: Link) -> None:
    """Where the stream starts now."""
    link.call("XTRIM", stream, "MINID", "=", "10004-0")
    ran = here("replay", stream, "g", "--from", "start", url=url)
    assert "starts at" in ran.err
    assert re.search(r"\(10004-0\): older ones(, if there were any,)? are gone", ran.err)
    assert "older ones" not in here("replay", stream, "g", "--from", "10005-0", url=url).err


def test_what_was_done_once_is_skipped_or_done_again(
    history: list[str], stream: str, url: str, link: Link
) -> None:
    """The plan says how many; with --again each event says that it is to be done once more."""
    for number in (2, 3):
        link.call("SET", StreamKeys(stream).done("g", f"p-{number}"), "1")
    plan = here("replay", stream, "g", "--from", "start", url=url)
    assert "2 of them were done before (once=) and will be skipped; --again does them once more" in plan.err
    ran = here("replay", stream, "g", "--from", "start", "--again", "--execute", "--json", url=url)
    assert (ran.json["done"], ran.json["again"]) == (2, True)
    assert "they are done once more" in ran.err
    assert said_of(link, stream) == {f"{ran.json['replay']} again range 0-0 to 10010-0"}


def test_an_interrupted_replay_is_listed_and_resumed(
    history: list[str], stream: str, url: str, link: Link, interrupted_at: Callable[[int], None]
) -> None:
    """It says how to go on; what it was is kept; and its end is known."""
    interrupted_at(4)
    ran = here("replay", stream, "g", "--from", "start", "--rate", "10/s", "--execute", url=url)
    assert ran.code == 130
    assert "interrupted: 4 of 12 events are handed over; go on with: millstream replay" in ran.err
    (row,) = here("replay", "ls", stream, "g", "--json", url=url).json
    assert (row["handed_over"], row["selected"]) == (4, 12)
    assert f"--resume {row['id']} --execute --rate 10/s" in ran.err
    assert here("replay", "ls", stream, "other", "--json", url=url).json == []
    wrong = here("replay", stream, "other", "--resume", row["id"], "--execute", url=url)
    assert (wrong.code, "is one for group 'g', not 'other'" in wrong.error) == (2, True)
    interrupted_at(0)
    asked = here("replay", stream, "g", "--resume", row["id"], url=url)
    assert asked.code == 6
    assert "4 of 12 events are handed over" in asked.err
    rest = here("replay", stream, "g", "--resume", row["id"], "--execute", "--json", url=url)
    assert (rest.code, rest.json["handed_over"]) == (0, 12)
    assert len(again(link, stream, "g")) == len(set(again(link, stream, "g"))) == 12
    assert len(said_of(link, stream)) == 1
    assert "was interrupted" in here("replay", "ls", stream, "g", url=url).err
    done = here("replay", stream, "g", "--resume", row["id"], "--execute", url=url)
    assert (done.code, "none seems to be left" in done.err) == (0, True)
    assert len(again(link, stream, "g")) == 12


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Press Ctrl-C once so many events are handed over; 0 for never."""
    from consumers.replay_throttle import Throttle

    tell, at = Throttle.after, 0

    def after(self: Throttle, *args: int, **kwargs: int) -> None:
        tell(self, *args, **kwargs)
        if at and self.handed_over >= at:
            raise KeyboardInterrupt

    def set_at(count: int) -> None:
        nonlocal at
        at = count

    monkeypatch.setattr(Throttle, "after", after)
    return set_at


def left_alone(link: Link, stream: str) -> None:
    """Four entries that a consumer of `g` holds, two of them left alone for 40 s."""
    for n in range(4):
        fields = encode_entry(Event({"n": n}, type=f"t{n}"), producer="q", number=n)
        link.call("XADD", stream, f"{20_001 + n}-0", *fields)
    link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", stream, ">")
    link.call("XCLAIM", stream, "g", "dead", "0", "20001-0", "20003-0", "IDLE", "40000")


def test_abandoned_entries_run_again_at_once(history: list[str], stream: str, url: str, link: Link) -> None:
    """Those idle for as long as the group allows, and no others; the plan comes first."""
    left_alone(link, stream)
    plan = here("replay", "pending", stream, "g", url=url)
    assert plan.code == 6
    assert "2 entries left alone for 30 s" in plan.err
    assert again(link, stream, "g") == []
    one = here("replay", "pending", stream, "g", "--type", "t2", url=url)
    assert "1 event of type t2" in one.err
    ran = here("replay", "pending", stream, "g", "--execute", "--json", url=url)
    assert (ran.code, ran.json["entries"], ran.json["handed_over"]) == (0, 2, 2)
    assert again(link, stream, "g") == ["20001-0#0", "20003-0#0"]
    assert said_of(link, stream) == {f"{ran.json['replay']} once pending"}
    assert [row["entry_id"] for row in here("pending", stream, "g", "--json", url=url).json] == [
        "20002-0",
        "20004-0",
    ]
    assert "nothing to replay" in here("replay", "pending", stream, "g", url=url).out


def test_what_is_being_handled_needs_force(history: list[str], stream: str, url: str, link: Link) -> None:
    """It runs twice, and the plan says so."""
    left_alone(link, stream)
    refused = here("replay", "pending", stream, "g", "--idle", "1s", "--execute", url=url)
    assert refused.code == 2
    assert "--idle=1.0 s is below the 30 s" in refused.error
    assert "--force does it all the same" in refused.error
    forced = here("replay", "pending", stream, "g", "--force", "--to", "20003-0", url=url)
    assert "3 entries pending" in forced.err
    assert "1 event of these may be being handled just now: they run twice" in forced.err
    ran = here("replay", "pending", stream, "g", "--force", "--from", "10002-0", "--to", "10001-0", url=url)
    assert (ran.code, "the range is reversed" in ran.error) == (2, True)
    ran = here("replay", "pending", stream, "g", "--force", "--execute", "--json", url=url)
    assert (ran.code, ran.json["handed_over"]) == (0, 4)


def test_dead_letters_run_again(history: list[str], stream: str, url: str, link: Link) -> None:
    """Those selected, each once; the others stay."""
    key = StreamKeys(stream).dead("g")
    for n, error in enumerate(("TimeoutError", "ValueError", "TimeoutError")):
        letter = DeadLetter(reason="why", error=error, stream=stream, entry_id=f"{10_001 + n}-0", group="g")
        fields = encode_entry(Event({"n": n}, type=f"t{n}"), producer="p", number=n)
        link.call("XADD", key, f"30{n}-0", *dead_fields(letter, fields))
    assert "no dead letter is selected" in here("replay", "dead", stream, "g", "--type", "x", url=url).out
    plan = here("replay", "dead", stream, "g", "--error", "Timeout*", "--from", "-100000d", url=url)
    assert plan.code == 6
    assert "3 dead letters of group g, 2 events of them selected" in plan.err
    ran = here("replay", "dead", stream, "g", "--error", "Timeout*", "--execute", "--json", url=url)
    assert (ran.code, ran.json["handed_over"]) == (0, 2)
    assert again(link, stream, "g") == ["10001-0#0", "10003-0#0"]
    assert link.call("XLEN", key) == 1
    assert said_of(link, stream) == {f"{ran.json['replay']} once dead, error Timeout*"}
    reversed_ = here("replay", "dead", stream, "g", "--from", "10002-0", "--to", "10001-0", url=url)
    assert (reversed_.code, reversed_.out) == (2, "")
    assert "from 10002-0 to 10001-0: the range is reversed" in reversed_.error
    assert here("replay", "dead", stream, "other", url=url).out.startswith(
        "nothing to replay: no dead letter is there"
    )


def test_a_bar_shows_share_rate_and_what_is_left() -> None:
    """On one line; without a rate nothing is said about the end."""
    line = bar_line("handed over", 1_250, 5_000, 480, "waiting")
    assert line == "handed over [#####---------------]  1,250 of 5,000  480/s  7.8 s left  waiting"
    assert bar_line("x", 5, 5, 0.5) == "x [####################]  5 of 5  0.5/s"
    assert bar_line("x", 0, 0, 0) == "x [####################]  0 of 0  0.0/s"


def test_a_person_at_a_terminal_sees_a_bar(history: list[str], stream: str, url: str, link: Link) -> None:
    """With count, rate and what is left; Ctrl-C takes it away and says how to go on."""
    for n in range(60):
        link.call("XADD", stream, f"{20_001 + n}-0", *encode_entry(Event(n), producer="p", number=100 + n))
    ours, theirs = os.openpty()
    args = ("replay", stream, "g", "--from", "start", "--rate", "20/s", "--execute")
    process = started(*args, url=url, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    said = b""

    def sees(pattern: bytes) -> Callable[[], bool]:
        def seen() -> bool:
            nonlocal said
            with contextlib.suppress(OSError):  # the other end is closed
                said += os.read(ours, 1_000)
            return re.search(pattern, said) is not None

        return seen

    until(sees(rb"handed over \[#+-+\]  \d+ of 72  \d+(\.\d)?/s  [\d.]+ s left"), 30)
    process.send_signal(signal.SIGINT)
    until(sees(rb"interrupted: \d+ of 72 events are handed over; go on with: millstream replay"), 30)
    assert process.wait(20) == 130
    os.close(ours)
