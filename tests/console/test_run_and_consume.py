"""millstream run and consume: workers of an app, and consumers without one, from start to a clean end."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from console.cli.chosen import ChosenBatch
from consumers.sinks.patient import Patient
from pipeline.event import Event
from pipeline.outcome import Outcomes
from pipeline.server.connect import Link
from pipeline.where import parse
from pipeline.wire import encode_entry
from tests.conftest import Server
from tests.console.command import Ran, apart, command, environ, here, started
from tests.until import until

APP = """
from millstream import Event, Pipeline
import os, pathlib
app = Pipeline()
@app.consumer({stream!r}, group="one", claim_after="1s")
def one(event: Event) -> None:
    with open("one.txt", "a") as file:
        file.write(f"{{os.getpid()}} {{event.data['n']}}\\n")
@app.consumer({stream!r}, group="two", claim_after="1s")
async def two(event: Event) -> None:
    with open("two.txt", "a") as file:
        file.write(f"{{os.getpid()}} {{event.data['n']}}\\n")
"""


def send(link: Link, stream: str, count: int, **facts: str) -> None:
    """Events numbered from 0."""
    for n in range(count):
        link.call("XADD", stream, "*", *encode_entry(Event({"n": n}, **facts), producer="p", number=n))  # type: ignore[arg-type]


def wrote(path: Path) -> list[tuple[int, int]]:
    """(pid, number) of each event a handler saw."""
    if not path.exists():
        return []
    return [(int(pid), int(n)) for pid, n in (line.split() for line in path.read_text().splitlines())]


def ended(process: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> Ran:
    """Stop it; what it left behind."""
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return Ran(process.returncode, out.decode(), err.decode())


def test_run_handles_events_until_it_is_told_to_stop(
    stream: str, url: str, link: Link, tmp_path: Path
) -> None:
    """Every group gets every event; SIGTERM ends it with 0; stdout stays the handlers' own."""
    (tmp_path / "shop.py").write_text(APP.format(stream=stream))
    send(link, stream, 20)
    process = started("run", "shop:app", url=url, cwd=tmp_path)
    for name in ("one.txt", "two.txt"):
        until(lambda name=name: len(wrote(tmp_path / name)) == 20)  # type: ignore[misc]
    ran = ended(process)
    assert (ran.code, ran.out) == (0, "")
    assert "consuming" in ran.err
    rows = {row["group"]: row["state"] for row in here("groups", stream, "--json", url=url).json}
    assert rows == {"one": "drained", "two": "drained"}


def test_one_group_may_run_alone_and_in_several_processes(
    stream: str, url: str, link: Link, tmp_path: Path
) -> None:
    """A killed worker is started again; Ctrl-C stops all of them, and leaves none behind."""
    (tmp_path / "shop.py").write_text(APP.format(stream=stream))
    process = started("run", "shop:app", "--group", "one", "--processes", "2", url=url, cwd=tmp_path)

    def members() -> list[int]:
        ran = here("consumers", stream, "one", "--json", url=url)
        rows = ran.json if ran.code == 0 else []
        return [int(row["name"].split("-")[-2]) for row in rows if row["kind"] == "member"]

    until(lambda: len(members()) == 2)
    first = members()[0]
    os.kill(first, signal.SIGKILL)
    until(lambda: len(set(members()) - {first}) == 2)
    workers = set(members())
    send(link, stream, 10)
    until(lambda: len(wrote(tmp_path / "one.txt")) == 10)
    ran = ended(process, signal.SIGINT)
    assert ran.code == 0
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers if Path("/proc/self").exists())
    assert not (tmp_path / "two.txt").exists()


@pytest.mark.parametrize(
    ("text", "target", "code", "said"),
    [
        ("", "nosuch:app", 3, "there is no module 'nosuch'"),
        ("", "mod", 3, "module 'mod' has no 'app': it has no Pipeline"),
        ("from millstream import Pipeline\nworkers = Pipeline()", "mod:ap", 3, "it has workers"),
        ("app = 3", "mod:app", 2, "mod:app is of type int, not a Pipeline"),
        (
            "import nosuchthing",
            "mod:app",
            2,
            "ModuleNotFoundError: No module named 'nosuchthing' (mod.py, line 1:",
        ),
        (
            "def f():\n    return oops\nf()",
            "mod:app",
            2,
            "NameError: name 'oops' is not defined (mod.py, line 2: return oops)",
        ),
        ("def f(:", "mod:app", 2, "SyntaxError: invalid syntax (mod.py, line 1: def f(:)"),
        ("raise SystemExit(3)", "mod:app", 2, "SystemExit: 3 (mod.py, line 1:"),
        ("", "mod.py:app", 2, "'mod.py:app' names a file: name the module, mod:app"),
        ("", "mod app", 2, "is not MODULE:APP"),
        ("from millstream import Pipeline\napp = Pipeline()", "mod", 3, "declares no consumer"),
    ],
)
def test_an_app_that_cannot_run_says_why_in_one_line(
    text: str, target: str, code: int, said: str, url: str, tmp_path: Path
) -> None:
    """No such module, no such app, no app at all, or an error of the user's own, with its last line."""
    (tmp_path / "mod.py").write_text(text)
    ran = apart("run", target, url=url, cwd=tmp_path)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error


def test_a_group_nobody_declared_is_exit_code_3(stream: str, url: str, tmp_path: Path) -> None:
    """With those there are."""
    (tmp_path / "shop.py").write_text(APP.format(stream=stream))
    ran = apart("run", "shop:app", "--group", "three", url=url, cwd=tmp_path)
    assert ran.code == 3
    assert "there are: one, two" in ran.error


@pytest.mark.parametrize("processes", ["1", "2"])
def test_workers_without_a_server_are_exit_code_7(processes: str, stream: str, tmp_path: Path) -> None:
    """Said once, before any worker is started."""
    (tmp_path / "shop.py").write_text(APP.format(stream=stream))
    ran = apart("run", "shop:app", "--processes", processes, url="redis://u:secret@127.0.0.1:1", cwd=tmp_path)
    assert ran.code == 7
    assert "cannot reach" in ran.error
    assert "secret" not in ran.err


def test_workers_that_cannot_go_on_are_not_started_again(
    stream: str, url: str, link: Link, tmp_path: Path
) -> None:
    """A key of another type is mended by no restart: said once, all stop, exit code 1."""
    (tmp_path / "shop.py").write_text(APP.format(stream=stream))
    link.call("SET", stream, "text")
    ran = apart("run", "shop:app", "--processes", "2", url=url, cwd=tmp_path)
    assert ran.code == 1
    assert "no restart would help" in ran.err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_systemd_is_told_that_no_restart_would_help(
    stream: str, url: str, link: Link, tmp_path: Path, processes: str
) -> None:
    """The main process of a unit ends with 78 then, which the unit names in RestartPreventExitStatus."""
    (tmp_path / "shop.py").write_text(APP.format(stream=stream))
    link.call("SET", stream, "text")
    done = subprocess.run(
        [
            "sh",
            "-c",
            'SYSTEMD_EXEC_PID=$$ exec "$0" "$@"',
            *command("run", "shop:app", "--processes", processes),
        ],
        env=environ(url),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 78, done.stderr


def test_consume_writes_each_event_as_a_line(motley: str, url: str) -> None:
    """What cannot be read is a dead letter, and stops nothing; what stands on stdout is safe for a terminal."""
    process = started("consume", motley, "-g", "g", url=url)
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(6)]
    until(lambda: len(here("dead", motley, "g", "--json", url=url).json) == 1)
    ran = ended(process, signal.SIGINT)
    assert (ran.code, ran.out) == (0, "")
    assert sorted(json.loads(line)["type"] for line in lines)[3:] == ["row"] * 3
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for line in lines for c in line[:-1])


def test_consume_appends_to_a_file(stream: str, url: str, link: Link, tmp_path: Path) -> None:
    """One line per event, only of the types asked for."""
    send(link, stream, 5, type="a.b")
    send(link, stream, 3, type="c")
    sink = tmp_path / "out.jsonl"
    process = started(
        "consume", stream, "-g", "g", "--type", "a.*", "--sink", f"jsonl:{sink}?rotate=1MB&keep=2", url=url
    )
    until(lambda: sink.exists() and len(sink.read_text().splitlines()) == 5)
    assert ended(process).code == 0
    assert {json.loads(line)["type"] for line in sink.read_text().splitlines()} == {"a.b"}


@pytest.mark.parametrize("exec_too", [False, True], ids=["sink", "exec"])
def test_consume_hands_on_only_what_a_comparison_is_true_of(
    exec_too: bool, stream: str, url: str, link: Link, tmp_path: Path
) -> None:
    """The rest is done as it is: nothing waits for it, and the group does not see it again."""
    send(link, stream, 20)
    target = tmp_path / "out.jsonl"
    script = tmp_path / "each"
    script.write_text(f"#!/bin/sh\ncat >> {target}\n")
    script.chmod(0o755)
    to = ["--exec", str(script)] if exec_too else ["--sink", f"jsonl:{target}"]
    process = started("consume", stream, "-g", "g", "--where", "n>=17", "--where", "n!=18", *to, url=url)
    until(lambda: '"drained"' in here("group", "show", stream, "g", "--json", url=url).out)
    assert ended(process).code == 0
    assert sorted(json.loads(line)["data"]["n"] for line in target.read_text().splitlines()) == [17, 19]
    wrong = here("consume", stream, "-g", "g", "--where", "n>", url=url)
    assert (wrong.code, wrong.error) == (
        2, "--where='n>': expected a value behind > (two quotes for empty text) at character 3"
    )  # fmt: skip


def test_what_a_sink_says_of_an_event_is_said_of_its_place_in_the_whole_batch() -> None:
    """Although the sink saw fewer; what cannot be read is the sink's to judge."""
    seen: list[list[Event]] = []

    class Picky:
        def __call__(self, events: list[Event]) -> Outcomes:
            seen.append(events)
            outcomes = Outcomes()
            outcomes.reject(1, "no")
            outcomes.emit(0, "other", {})
            return outcomes

        def close(self) -> None:
            """Nothing is held."""

    chosen = ChosenBatch(Patient(Picky(), "picky"), (parse("n>=2"),))
    events = [Event({"n": n}) for n in range(5)]
    outcomes = chosen(events)
    assert seen == [events[2:]]
    assert outcomes is not None
    assert (list(outcomes.errors), list(outcomes.wanted)) == ([3], [2])
    assert chosen(events[:2]) is None and len(seen) == 1


def test_a_reader_that_leaves_stops_consume_and_costs_no_event(stream: str, url: str, link: Link) -> None:
    """What could not be written waits for the next one; nothing becomes a dead letter for it."""
    send(link, stream, 3)
    process = started("consume", stream, "-g", "g", url=url)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    send(link, stream, 2)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read().decode()
    process.stderr.close()
    facts = here("group", "show", stream, "g", "--json", url=url).json
    assert facts["dead"] == 0
    assert facts["unread"] + facts["running"] + facts["waiting"] >= 1


def test_exec_runs_a_command_for_each_event(stream: str, url: str, link: Link, tmp_path: Path) -> None:
    """0 is done, 65 a dead letter at once with its last words, others a retry; the event is its standard input."""
    script = tmp_path / "each"
    script.write_text(
        "#!/bin/sh\ncat >> seen.txt\n"
        'case "$EVENT_TYPE/$EVENT_ATTEMPT" in\n'
        "  bad/*) echo first; echo 'no such order' >&2; exit 65;;\n"
        "  shy/1) exit 1;;\n"
        'esac\necho "$EVENT_TYPE $EVENT_KEY $EVENT_GROUP $EVENT_ATTEMPT" >> done.txt\n'
    )
    script.chmod(0o755)
    for name in ("good", "bad", "shy"):
        send(link, stream, 1, type=name, key="k")
    process = started("consume", stream, "-g", "g", "--exec", "./each 'one word'", url=url, cwd=tmp_path)
    until(
        lambda: (
            (tmp_path / "done.txt").exists() and len((tmp_path / "done.txt").read_text().splitlines()) == 2
        )
    )
    until(lambda: here("dead", stream, "g", "--each", "--json", url=url).out.count("dead_id") == 1)
    assert ended(process).code == 0
    assert sorted((tmp_path / "done.txt").read_text().splitlines()) == ["good k g 1", "shy k g 2"]
    seen = [json.loads(line) for line in (tmp_path / "seen.txt").read_text().splitlines()]
    assert sorted(event["type"] for event in seen) == ["bad", "good", "shy", "shy"]
    assert (
        here("dead", stream, "g", "--each", "--json", url=url).json[0]["reason"]
        == "./each: exit code 65: no such order"
    )


def test_a_command_that_still_runs_is_killed_when_consume_must_end(
    stream: str, url: str, link: Link, tmp_path: Path, server: Server
) -> None:
    """With all it started; its event runs again elsewhere."""
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nsleep 300 &\necho $! > child.txt\nwait\n")
    script.chmod(0o755)
    send(link, stream, 1)
    process = started(
        "consume", stream, "-g", "g", "--exec", str(script), "--grace", "0.2s", url=url, cwd=tmp_path
    )
    child = int(until(lambda: (tmp_path / "child.txt").exists() and (tmp_path / "child.txt").read_text()))
    assert ended(process).code in (0, 1)
    until(
        lambda: (
            not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
        )
    )
    facts = here("group", "show", stream, "g", "--json", url=url).json
    assert (facts["dead"], facts["running"] + facts["waiting"]) == (0, 1)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--exec", "true", "--sink", "console:"), 2, "give one of them"),
        (("--exec", "nosuchprogram x"), 3, "there is no program 'nosuchprogram'"),
        (("--exec", "unclosed 'quote"), 2, "cannot be split into words"),
        (("--exec", " "), 2, "is empty"),
        (("--sink", "s3://bucket"), 2, "there is no sink 's3:'; there are: console:, jsonl:"),
        (("--sink", "jsonl:/no/such/folder/x.jsonl"), 2, "/no/such/folder"),
        (("--sink", "jsonl:x?rotat=1MB"), 2, "there is no option 'rotat'; there are: rotate, every, keep"),
        (("--sink", "jsonl:x?keep=0"), 2, "keep='0': at least 1"),
        (("--sink", "postgresql://app:secret@db/shop"), 2, "the URL of sink postgresql: table=… is missing"),
        (
            ("--sink", "postgresql://app:${NOSUCH_}@db/x?table=t"),
            2,
            "names ${NOSUCH_}, which the environment does not",
        ),
        (("--exec", "true", "--batch", "3"), 2, "--batch is for --sink"),
        (("--concurrency", "3"), 2, "--concurrency is for --exec"),
        (("--attempts", "0"), 2, "--attempts"),
        (("--claim-after", "1ms"), 2, "claim_after"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_consumer_that_cannot_be_meant_reads_nothing(
    args: tuple[str, ...], code: int, said: str, stream: str, url: str
) -> None:
    """One line, and no group is made."""
    ran = here("consume", stream, "-g", "g", *args, url=url)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error
    assert here("streams", "--match", stream, "--json", url=url).json == []


def test_consume_keeps_running_while_its_group_is_paused(
    stream: str, url: str, link: Link, tmp_path: Path
) -> None:
    """It reads nothing, says so in one line, and goes on by itself once the group is resumed."""
    send(link, stream, 1)
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as file, err.open("wb") as said:
        process = started("consume", stream, "-g", "g", "-o", "ndjson", url=url, stdout=file, stderr=said)
    until(lambda: len(out.read_text().splitlines()) == 1, 20)
    assert here("group", "pause", stream, "g", url=url).code == 0
    until(lambda: "group is paused" in err.read_text(), what="it has heard of it")
    send(link, stream, 5)
    facts = here("group", "show", stream, "g", "--json", url=url).json
    assert (facts["state"], facts["members"]) == ("paused", 1)
    assert len(out.read_text().splitlines()) == 1
    assert process.poll() is None
    assert here("group", "resume", stream, "g", url=url).code == 0
    until(lambda: len(out.read_text().splitlines()) == 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert err.read_text().count("group is paused") == 1


def test_a_password_on_the_command_line_is_warned_of_and_not_shown(stream: str) -> None:
    """Whoever lists processes sees it; in a variable nobody does."""
    pytest.importorskip("psycopg", reason="psycopg (extra `postgres`) is not installed")
    sink = "postgresql://app:Can4ry@db/shop?table=t"
    args = ("consume", stream, "-g", "g")
    ran = apart(*args, "--sink", sink, url="redis://127.0.0.1:1")
    assert ran.code == 7
    assert "whoever lists processes sees the password" in ran.err
    assert "Can4ry" not in ran.err
    ran = apart(*args, url="redis://127.0.0.1:1", environment={"MILLSTREAM_CONSUME_SINK": sink})
    assert ran.code == 7
    assert "whoever lists" not in ran.err
