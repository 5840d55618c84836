"""millstream bench: all it measures and compares, on a real server, with next to no events."""

import shutil
import signal
from pathlib import Path

import pytest

from benchmarks.limits.event import event
from console.bench.benchmark_program import PROGRAMS, BenchmarkProgram, find_program, whole
from console.bench.consuming import LONGEST_LOOK_S, LOOK_S, next_look_s
from console.bench.measures import MEASURES, NAMES, chosen
from console.bench.own_keys import PREFIX
from console.bench.process import BenchError
from console.bench.report import report
from console.bench.rounds import Figures
from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.locate import locate
from pipeline.wire import encode_entry
from tests.conftest import BINARY, OwnServer
from tests.console.command import Ran, apart, here, started
from tests.until import until

PLACES = (None, str(Path(BINARY).parent) if BINARY else "")
REDIS_BENCHMARK = next(
    filter(None, (shutil.which(name, path=path) for name in PROGRAMS for path in PLACES)), None
)
FEW = ("--events", "300", "--rounds", "1", "--rate", "2000")


def left_behind(link: Link) -> list[bytes]:
    """Keys of any run of the bench."""
    keys: list[bytes] = link.call("KEYS", f"*{PREFIX}*")
    return keys


@pytest.mark.campaign
def test_every_figure_is_there_and_nothing_is_left_behind(own_server: OwnServer) -> None:
    """Rates with their shares, latency, bytes; all that was sent arrived; no key stays."""
    server = own_server()
    ran = apart("bench", *FEW, "--json", url=f"unix://{server.address.path}", timeout_s=60)
    assert ran.code == 0, ran.err
    found = ran.json
    rows = {row["measure"]: row for row in found["rates"] + found["latency"]}
    by_bare_loop = found["load"]["limit_by"] == "a bare loop of ours"
    missing = {"bytes", "bare-append"} if by_bare_loop else {"bytes"}
    assert set(rows) == set(NAMES) - missing
    for measure in MEASURES:
        if measure.name in rows and measure.kind != "latency":
            row = rows[measure.name]
            assert row["per_s"] > 0 and row["arrived"] >= 300 and row["right"]
            assert len(row["rounds_per_s"]) == 1
            if measure.of:
                assert row["share"] == pytest.approx(row["per_s"] / rows[measure.of]["per_s"])
    assert rows["latency"]["p50_us"] <= rows["latency"]["p99_us"] <= rows["latency"]["p100_us"]
    assert rows["latency"]["times_p99"] > 0
    singles, packs = found["bytes"]
    assert (singles["entries"], packs["entries"]) == (300, 3)
    assert 160 < singles["bytes_per_event"] < 400 and packs["bytes_per_event"] < 80
    assert found["server"]["aof"] is True and found["server"]["fsync"] == "everysec"
    assert found["client"]["cores"] >= 1 and found["right"]
    assert f"keys {PREFIX}" in ran.err and "300 events" in ran.err
    link = server.connector().link("look")
    assert link.call("DBSIZE") == 0


def test_one_figure_is_measured_with_what_it_is_compared_with(url: str, link: Link) -> None:
    """As a table for people; keys are gone."""
    ran = here("bench", *FEW, "--only", "send-many", url=url)
    assert ran.code == 0, ran.err
    rows = [line.split()[0] for line in ran.out.splitlines() if "%" in line or line.startswith("limit")]
    assert rows == ["limit", "send-many"]
    assert "appendfsync everysec" in ran.out
    assert left_behind(link) == []


def test_the_figures_of_a_consumer(url: str, link: Link) -> None:
    """Its ndjson is one line with all."""
    ran = here("bench", *FEW, "--measure", "consume", "-o", "ndjson", "-q", url=url)
    assert (ran.code, ran.err) == (0, "")
    (found,) = ran.lines
    assert [row["measure"] for row in found["rates"]] == ["bare-consume", "consume"]
    assert [row["arrived"] for row in found["rates"]] == [300, 300]
    assert left_behind(link) == []


def test_an_embedded_server_serves_for_a_bench_alone(tmp_path: Path) -> None:
    """It runs for as long as the bench does."""
    ran = here("bench", *FEW, "--only", "send-many", "--json", url=f"embedded://{tmp_path}/data")
    assert ran.code == 0, ran.err
    assert [row["right"] for row in ran.json["rates"]] == [True, True]


@pytest.mark.parametrize(
    "names", [["limit", "bare-send", "send"], ["bare-packs-append", "bare-packs-send", "packs-send"]]
)
def test_what_is_sent_one_by_one_is_compared_with_a_bare_loop_that_does_so(
    names: list[str], url: str, link: Link
) -> None:
    """Which is compared itself, and runs anew in each round: the script knows what it appended before."""
    ran = here("bench", *FEW, "--rounds", "2", "--only", names[-1], "--json", url=url)
    assert ran.code == 0, ran.err
    rows = ran.json["rates"]
    assert [(row["measure"], row["arrived"] >= 600, row["right"]) for row in rows] == [
        (name, True, True) for name in names
    ]
    assert left_behind(link) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_removes_its_keys(number: signal.Signals, url: str, link: Link) -> None:
    """Exit code 130, and no result."""
    process = started("bench", "--events", "100000", "--only", "send-many", url=url)
    until(lambda: left_behind(link))
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b""), err
    assert left_behind(link) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--events", "99"), "99 is not in the range 100<=x<=10000000"),
        (("--rounds", "0"), "0 is not in the range 1<=x<=100"),
        (("--rate", "0"), "0.0 is not in the range"),
        (("--only", "sending"), "'sending' is not one of"),
        (("--redis-benchmark", "/nowhere/redis-benchmark"), "--redis-benchmark='/nowhere/redis-benchmark'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_be_are_named_with_their_range(
    args: tuple[str, ...], said: str, url: str, link: Link
) -> None:
    """And nothing was written."""
    ran = here("bench", *args, url=url)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.error
    assert left_behind(link) == []


def test_a_server_that_cannot_be_reached_is_exit_code_7() -> None:
    """As for every verb, and its password is not shown."""
    ran = here("bench", url="redis://user:secret@127.0.0.1:1/0")
    assert (ran.code, ran.out) == (7, "")
    assert "secret" not in ran.err


def test_what_would_fill_the_server_is_refused(own_server: OwnServer) -> None:
    """With how much there is, and how many events would fit."""
    server = own_server()
    link = server.connector().link("setup")
    link.call("CONFIG", "SET", "maxmemory", "20mb")
    ran = here("bench", "--events", "1000000", url=f"unix://{server.address.path}")
    assert (ran.code, ran.out) == (2, "")
    assert "--events=1,000,000 take about" in ran.error
    assert "maxmemory of 21.0 MB" in ran.error
    assert "would fit" in ran.error
    assert link.call("DBSIZE") == 0


def test_a_password_stays_off_every_command_line() -> None:
    """redis-benchmark takes one nowhere else, so it is not used then."""
    with_password = locate("redis://user:secret@localhost:6379/0")
    # sh stands for the program: what matters is what it would be told.
    assert "command line" in str(find_program("sh", with_password))
    program = find_program("sh", locate("redis://localhost:6380/2"))
    assert isinstance(program, BenchmarkProgram)
    command = program.command("s", 10, 16, 50)
    assert command[1:7] == ["-h", "localhost", "-p", "6380", "--dbnum", "2"]
    assert command[command.index("XADD") :][:5] == ["XADD", "s", "*", "h", "h" * 29]


def test_redis_benchmark_is_asked_for_whole_requests() -> None:
    """It fills the last one, and would be found to have appended too many; and for ms enough to tell a rate."""
    assert [whole(count, 500) for count in (100, 10_500, 10_501, 100_000)] == [
        10_000,
        10_500,
        11_000,
        100_000,
    ]


@pytest.mark.skipif(
    REDIS_BENCHMARK is None, reason="no redis-benchmark on PATH or beside the server's program"
)
def test_the_limit_is_measured_by_redis_benchmark(url: str, link: Link) -> None:
    """Where it is there; and what it appended is counted."""
    program = ("--redis-benchmark", str(REDIS_BENCHMARK))
    ran = here("bench", "--events", "1234", "--rounds", "1", "--only", "limit", "--json", *program, url=url)
    assert ran.code == 0, ran.err
    assert ran.json["load"]["limit_by"] in PROGRAMS
    assert ran.json["rates"][0]["checked"] == "counted"
    assert left_behind(link) == []


def test_a_program_that_finds_no_rate_is_an_error() -> None:
    """Said with its own last words."""
    program = find_program("false", locate("redis://localhost:1/0"))
    assert isinstance(program, BenchmarkProgram)
    with pytest.raises(BenchError, match="false failed: code 1"):
        program.run("s", 10, 16, 50)


def test_whoever_waits_for_the_last_event_looks_seldom_and_just_in_time() -> None:
    """Each look takes the interpreter from the handlers that are measured."""
    assert next_look_s(0, 1_000, 5.0) == LONGEST_LOOK_S
    assert next_look_s(1_000, 100_000, 0.01) == LONGEST_LOOK_S
    assert next_look_s(90_000, 100_000, 0.09) == pytest.approx(0.009)
    assert next_look_s(99_999, 100_000, 0.1) == LOOK_S


def test_a_share_is_of_the_medians() -> None:
    """And what arrived wrong is said to be."""
    limit, ours = chosen(["send-many"])
    figures = [
        Figures(limit, [{"per_s": rate} for rate in (100.0, 400.0, 200.0)]),
        Figures(
            ours, [{"per_s": rate, "cpu_us": 2.0} for rate in (50.0, 150.0, 60.0)], events=9, right=False
        ),
    ]
    of_limit, row = report(figures, "redis-benchmark")["rates"]
    assert (of_limit["per_s"], of_limit["share"]) == (200, None)
    assert "redis-benchmark" in of_limit["what"]
    assert (row["per_s"], row["share"], row["of"]) == (60, 0.3, "limit")
    assert (row["least_per_s"], row["most_per_s"], row["right"]) == (50, 150, False)


def test_events_that_were_never_sent_are_an_error(url: str, link: Link) -> None:
    """The figures are shown, and the exit code is 1: here somebody else writes to the bench's stream."""
    process = started("bench", "--events", "30000", "--rounds", "1", "--only", "send-many", "--json", url=url)
    (name,) = until(lambda: [key for key in left_behind(link) if key.endswith(b"-send-many")])
    stranger = encode_entry(Event(event(123_456)), producer="p", number=1)
    link.call("XADD", name, "*", *stranger)
    out, err = process.communicate(timeout=50)
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert ran.code == 1
    assert "not all events arrived, or others than were sent: send-many" in ran.error
    assert ran.json["right"] is False
    assert [row["arrived"] for row in ran.json["rates"]][1] == 30_001
    assert left_behind(link) == []
