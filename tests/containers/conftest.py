"""Containers: the images and compose files, run for real on a Docker engine.

Only with --containers (`make containers`), and skipped, with the reason, where no engine answers or no image can be
had; with MILLSTREAM_CONTAINERS=required (CI, where there is an engine) such a reason is a failure. Each project is a
copy of compose/ with a name, ports and passwords of its own; whatever a test started is removed when it ends.
"""

import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.until import until

ROOT = Path(__file__).parent.parent.parent
REQUIRED = os.environ.get("MILLSTREAM_CONTAINERS") == "required"
UP_S = 120
STEP_S = 90


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that is in this folder needs an engine, but for what asks for none."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "without_engine" not in item.keywords:
            item.add_marker("containers")
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(240))


def cannot(reason: str) -> None:
    """Skip, or fail where these tests are required."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def docker(*args: str, check: bool = True, timeout_s: float = STEP_S) -> str:
    """What a docker command printed, stderr behind it."""
    done = subprocess.run(
        ["docker", *args], capture_output=True, text=True, errors="replace", timeout=timeout_s
    )
    assert not check or done.returncode == 0, f"docker {' '.join(args)}: {done.stderr or done.stdout}"
    return done.stdout + done.stderr


def code_of(*args: str, timeout_s: float = STEP_S) -> int:
    """How a docker command ended."""
    return subprocess.run(["docker", *args], capture_output=True, timeout=timeout_s).returncode


@pytest.fixture(scope="session")
def engine() -> str:
    """The version of the engine."""
    if shutil.which("docker") is None:
        cannot("no docker program here")
    done = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        text=True,
        timeout=STEP_S,
    )
    if done.returncode != 0:
        cannot(f"no Docker engine answers: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def compose_program(engine: str) -> list[str]:
    """`docker compose`, or the docker-compose before it."""
    if code_of("compose", "version") == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        cannot("neither docker compose nor docker-compose here")
    return ["docker-compose"]


@pytest.fixture(scope="session")
def images(engine: str) -> dict[str, str]:
    """The images that compose/images.sh found or built, by the variables of the compose files."""
    file = ROOT / "compose" / ".env"
    found = dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else {}
    for variable in ("REDIS_IMAGE", "VALKEY_IMAGE", "POSTGRES_IMAGE", "MILLSTREAM_IMAGE", "APP_IMAGE"):
        if variable not in found or code_of("image", "inspect", found[variable]) != 0:
            cannot(f"no {variable}: `make images` finds or builds it")
    return found


def free_port() -> int:
    """A port of this machine that nobody uses just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Project:
    """A copy of compose/, run under a name of its own."""

    program: list[str]
    folder: Path
    file: str
    images: dict[str, str]
    name: str = field(default_factory=lambda: f"mst{uuid.uuid4().hex[:8]}")
    ports: dict[str, int] = field(default_factory=dict)

    def compose(self, *args: str, check: bool = True, timeout_s: float = UP_S) -> str:
        """Run compose on the project."""
        command = [*self.program, "-p", self.name, "-f", str(self.folder / self.file), *args]
        environment = os.environ | self.images | {name: str(port) for name, port in self.ports.items()}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{' '.join(args)}: {done.stderr}{done.stdout}"
        return done.stdout

    def container(self, service: str) -> str:
        """The container's id."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        found = docker("ps", "-aq", *filters).split()
        assert len(found) == 1, f"{service} has containers {found}"
        return found[0]

    def inspect(self, service: str) -> Any:
        """All that the engine says about it."""
        return json.loads(docker("inspect", self.container(service)))[0]

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        """What a command in the service's container printed."""
        return docker("exec", self.container(service), *command, check=check)

    def logs(self, service: str) -> str:
        """What the service said."""
        return docker("logs", self.container(service))

    def health(self, service: str) -> str:
        """starting, healthy, unhealthy, or that it does not run."""
        state = self.inspect(service)["State"]
        return str(state["Health"]["Status"]) if state["Running"] else f"ended with {state['ExitCode']}"

    def until_healthy(self, *services: str, timeout_s: float = UP_S) -> None:
        """Wait for green."""
        for service in services:
            until(
                lambda one=service: self.health(one) == "healthy",  # type: ignore[misc]
                timeout_s,
                every_s=0.5,
                what=lambda one=service: f"{one} is {self.health(one)}: {self.logs(one)[-2000:]}",  # type: ignore[misc]
            )

    def secret(self, name: str) -> str:
        """One of its passwords."""
        return (self.folder / "secrets" / name).read_text().strip()

    def url(self, port: str) -> str:
        """Where its server is, for us."""
        file = self.folder / "secrets" / "redis_password"
        return f"redis://127.0.0.1:{self.ports[port]}/0?password_file={file}"

    def kill(self, service: str) -> None:
        """kill -9 of its process 1; start() starts it again: what was killed by hand, the engine leaves to us."""
        docker("kill", "-s", "KILL", self.container(service))

    def start(self, service: str) -> None:
        """Start a container that was killed."""
        docker("start", self.container(service))

    def crash(self, service: str) -> None:
        """kill -9 of all that its process 1 (tini) runs, and wait until the engine has started it again."""
        before = self.inspect(service)["RestartCount"]
        self.inside(service, "sh", "-c", "kill -9 -1", check=False)
        until(
            lambda: self.inspect(service)["RestartCount"] > before,
            UP_S,
            every_s=0.2,
            what=f"no restart of {service}",
        )

    def down(self) -> None:
        """Remove its containers, networks and volumes."""
        self.compose("down", "-v", "--remove-orphans", "-t", "5", timeout_s=UP_S)


@pytest.fixture(scope="module")
def project(
    compose_program: list[str], images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Project]]:
    """Makes projects: project("redis.yaml", "REDIS_PORT"); all are removed when the module ends."""
    made: list[Project] = []

    def make(file: str, ports: Sequence[str] = ()) -> Project:
        folder = tmp_path_factory.mktemp("project") / "compose"
        shutil.copytree(ROOT / "compose", folder, ignore=shutil.ignore_patterns("secrets", ".env", "*.whl"))
        # Passwords that stand out wherever they turn up, with what shells and configuration files trip over.
        (folder / "secrets").mkdir(mode=0o700)
        for name in ("redis_password", "postgres_password"):
            (folder / "secrets" / name).write_text(f"canary {name[:5]} \"'#$\\%{uuid.uuid4().hex}\n")
        subprocess.run([folder / "secrets.sh"], check=True, timeout=STEP_S)
        one = Project(compose_program, folder, file, images, ports={name: free_port() for name in ports})
        made.append(one)
        return one

    yield make
    for one in made:
        one.down()
