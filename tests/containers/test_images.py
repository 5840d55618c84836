"""The images: who runs in them, as which process, what is in them and what is not."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.containers.conftest import code_of, docker
from tests.until import until

LARGEST_MB = 90
"""What Millstream and all it needs may add to the base image."""


@pytest.fixture
def name() -> Iterator[str]:
    """A container's name; it is removed."""
    given = f"mst-{uuid.uuid4().hex[:8]}"
    yield given
    docker("rm", "-f", "-v", given, check=False)


@pytest.fixture
def image(images: dict[str, str]) -> str:
    """Millstream's image."""
    return images["MILLSTREAM_IMAGE"]


@contextmanager
def running_server(name: str, image: str) -> Iterator[str]:
    """A Redis for containers in its own network namespace; how others join that."""
    docker("run", "-d", "--name", name, image, "redis-server", "--appendonly", "no", "--save", "")
    until(lambda: "PONG" in docker("exec", name, "redis-cli", "ping", check=False), 30, every_s=0.2)
    yield f"container:{name}"


def test_it_is_millstream(image: str) -> None:
    """The entry point is the command line; its exit code is the container's."""
    assert docker("run", "--rm", image, "--version").startswith("millstream ")
    assert code_of("run", "--rm", image, "no-such-verb") == 2
    refused = docker("run", "--rm", image, "--url", "redis://127.0.0.1:1/0", "stream", "ls", check=False)
    assert "error:" in refused and "Traceback" not in refused


def test_nobody_is_root_and_nothing_is_written(images: dict[str, str]) -> None:
    """uid 10001 of group 0, no capability; the root file system may be read-only, and what runs finds its bytecode."""
    for image in (images["MILLSTREAM_IMAGE"], images["APP_IMAGE"]):
        options = [
            "--rm",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--network",
            "none",
        ]
        shown = docker(
            "run", *options, "--entrypoint", "sh", image, "-c",
            "id -u; id -g; grep CapEff /proc/self/status; millstream --version; touch /opt/x 2>&1; touch /x 2>&1;"
            " python -c 'import millstream.__main__ as m; print(m.__cached__)' | xargs ls",
        )  # fmt: skip
        assert shown.splitlines()[:2] == ["10001", "0"], shown
        assert re.search(r"CapEff:\s+0+$", shown, re.MULTILINE), shown
        assert len(re.findall("Read-only file system", shown)) == 2, shown
        assert shown.splitlines()[-1].endswith(".pyc"), shown


def test_nothing_is_left_of_the_build(images: dict[str, str]) -> None:
    """No package lists, caches, pip, wheels, sources, secrets or history."""
    for image in (images["MILLSTREAM_IMAGE"], images["APP_IMAGE"]):
        shown = docker(
            "run", "--rm", "--user", "0", "--network", "none", "--entrypoint", "sh", image, "-c",
            "find / -xdev \\( -name '*.whl' -o -name .git -o -name secrets -o -name .env -o -path '/root/.cache/*'"
            " -o -path '/src/*'"
            " -o -path '/var/lib/apt/lists/*_Packages' -o -path '/opt/venv/*/site-packages/pip' -o -path '/tmp/*' \\)"
            " -not -path '/proc/*' -not -path '*/ensurepip/*' -not -path '/usr/share/python-wheels/*'"
            " -not -path '/usr/lib/*' -not -path '/usr/local/lib/python*'",
        )  # fmt: skip
        assert shown == ""
        history = docker("history", "--no-trunc", image)
        assert "password" not in history.lower()


def test_it_is_small(images: dict[str, str]) -> None:
    """What Millstream adds to its base, driver of PostgreSQL included."""
    layers = {
        name: json.loads(docker("inspect", images[name]))[0]["Size"]
        for name in ("MILLSTREAM_IMAGE", "APP_IMAGE")
    }
    history = docker(
        "history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", images["MILLSTREAM_IMAGE"]
    )
    ours = 0
    for line in history.splitlines():  # the newest first
        ours += int(line.split()[0])
        if "millstream:x:10001" in line:
            break
    assert 1_000_000 < ours < LARGEST_MB * 1_000_000, f"{ours:,} bytes of {layers}"


def test_process_one_passes_signals_on_and_buries_orphans(
    image: str, images: dict[str, str], name: str
) -> None:
    """SIGTERM ends a consumer with 0, and what its commands leave running is no zombie when it ends."""
    with running_server(name, images["REDIS_IMAGE"]) as network:
        worker = f"{name}-w"
        orphan = "python -c \"import subprocess; subprocess.Popen(['sleep', '1'])\""
        try:
            docker(
                "run", "-d", "--name", worker, "--network", network, "--read-only", "--cap-drop", "ALL",
                "-e", "MILLSTREAM_URL=redis://127.0.0.1:6379/0", image, "consume", "work", "-g", "g", "--exec", orphan,
            )  # fmt: skip
            docker(
                "run", "--rm", "--network", network, "-e", "MILLSTREAM_URL=redis://127.0.0.1:6379/0", image,
                "produce", "work", "--data", '{"n": 1}',
            )  # fmt: skip
            shown = ["exec", worker, "healthy", "work", "g"]
            until(lambda: code_of(*shown) == 0, 30, every_s=0.2)

            def drained() -> bool:
                asked = docker(
                    "exec", worker, "millstream", "--json", "group", "show", "work", "g", check=False
                )
                return '"drained"' in asked

            until(drained, 30, every_s=0.5, what=lambda: docker("logs", worker))
            # The engine does not list zombies: the process table of the container itself.
            ended = r"^\d+ \(sleep\) [^Z]"
            table = until(
                lambda: [
                    shown
                    for shown in [docker("exec", worker, "sh", "-c", "cat /proc/[0-9]*/stat", check=False)]
                    if not re.search(ended, shown, re.MULTILINE)
                ],
                30,
                every_s=0.2,
            )[0]
            assert not re.search(r"^\d+ \(.*\) Z", table, re.MULTILINE), table
            assert table.startswith("1 (tini)"), table
            docker("stop", "-t", "25", worker)
            assert json.loads(docker("inspect", worker))[0]["State"]["ExitCode"] == 0, docker("logs", worker)
        finally:
            docker("rm", "-f", worker, check=False)


def test_several_workers_stop_with_their_supervisor(images: dict[str, str], name: str) -> None:
    """`run --processes 2`: all members leave on SIGTERM, one that was killed is replaced, it is healthy meanwhile."""
    with running_server(name, images["REDIS_IMAGE"]) as network:
        worker = f"{name}-w"
        app = "from millstream import Pipeline; app = Pipeline(); app.consumer('work', group='g')(lambda event: None)"
        try:
            docker(
                "run", "-d", "--name", worker, "--network", network, "--read-only",
                "--tmpfs", "/app:uid=10001,mode=0700", "-e", "MILLSTREAM_URL=redis://127.0.0.1:6379/0",
                images["APP_IMAGE"], "sh", "-c", 'echo "$0" > jobs.py; exec millstream run jobs:app --processes 2', app,
            )  # fmt: skip

            def members() -> set[str]:
                asked = docker(
                    "exec",
                    worker,
                    "millstream",
                    "--json",
                    "consumer",
                    "ls",
                    "work",
                    "g",
                    "--here",
                    check=False,
                )
                return set(re.findall(r'"name": "([^"]+)"', asked))

            first = until(lambda: [found for found in [members()] if len(found) == 2], 40, every_s=0.5,
                          what=lambda: docker("logs", worker))[0]  # fmt: skip
            victim = min(first).split("-")[1]
            docker("exec", worker, "python", "-c", f"import os; os.kill({victim}, 9)")
            until(lambda: len(members() - first) == 1, 40, every_s=0.5, what=lambda: docker("logs", worker))
            assert code_of("exec", worker, "healthy", "work", "g") == 0
            began = time.monotonic()
            docker("stop", "-t", "25", worker)
            assert time.monotonic() - began < 20
            assert json.loads(docker("inspect", worker))[0]["State"]["ExitCode"] == 0, docker("logs", worker)
        finally:
            docker("rm", "-f", worker, check=False)


def test_health_is_what_it_says(image: str, images: dict[str, str], name: str) -> None:
    """The server answers or not; a member of the group runs in this container, not in another."""
    with running_server(name, images["REDIS_IMAGE"]) as network:

        def healthy(url: str, *args: str) -> int:
            options = ["--rm", "--network", network, "-e", f"MILLSTREAM_URL={url}", "--entrypoint", "healthy"]
            return code_of("run", *options, image, *args)

        assert healthy("redis://127.0.0.1:6379/0") == 0
        assert healthy("redis://127.0.0.1:1/0") == 1
        assert healthy("redis://127.0.0.1:6379/0", "work", "g") == 1
