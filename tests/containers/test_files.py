"""The files of compose/ as they are: valid, and without what must not be in them. Needs no image, but some programs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containers.conftest import ROOT, STEP_S

COMPOSE = ROOT / "compose"
FILES = sorted(COMPOSE.glob("*.yaml"))
UNITS = sorted((COMPOSE / "systemd").glob("*.service"))
pytestmark = pytest.mark.without_engine


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_compose_takes_the_file(file: Path, tmp_path: Path) -> None:
    """Valid as it is, with the images that it names by itself, for whichever compose is here."""
    if shutil.which("docker-compose") is not None:
        program = ["docker-compose"]
    elif shutil.which("docker") is not None:
        program = ["docker", "compose"]
    else:
        pytest.skip("neither docker nor docker-compose is installed")
    folder = tmp_path / "compose"
    shutil.copytree(COMPOSE, folder, ignore=shutil.ignore_patterns("secrets", ".env", "*.whl"))
    done = subprocess.run(
        [*program, "-f", str(folder / file.name), "config"], capture_output=True, text=True, timeout=STEP_S
    )
    assert done.returncode == 0, done.stderr
    services = done.stdout.count("image: ")
    assert (
        services
        == done.stdout.count("mem_limit: ")
        == len(re.findall(r"restart: unless-stopped", done.stdout))
    )
    assert done.stdout.count("healthcheck:") == services
    assert "environment" not in done.stdout or not re.search(r"(?i)password: \S", done.stdout), done.stdout


@pytest.mark.parametrize(
    "file", sorted([*COMPOSE.glob("**/*.sh"), COMPOSE / "healthy"]), ids=lambda file: file.name
)
def test_scripts_are_scripts(file: Path) -> None:
    """They parse, and can be called."""
    shell = "bash" if "bash" in file.read_text().splitlines()[0] else "sh"
    assert subprocess.run([shell, "-n", file], timeout=STEP_S).returncode == 0
    assert os.access(file, os.X_OK)


def test_grace_is_above_ours() -> None:
    """Whoever stops us waits longer than the 20 s that handlers get."""
    for file in [*FILES, *UNITS]:
        given = re.findall(r"(?:stop_grace_period: |TimeoutStopSec=)(\d+)", file.read_text())
        assert given and min(map(int, given)) > 25, file


def test_passwords_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    """Each folder has its own; a second run changes nothing; nobody else on the machine may look in."""
    script = tmp_path / "secrets.sh"
    shutil.copy(COMPOSE / "secrets.sh", script)
    for _ in range(2):
        subprocess.run([script], check=True, capture_output=True, timeout=STEP_S)
    found = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert set(found) == {"redis_password", "postgres_password"}
    assert len({*found.values()}) == 2
    assert all(len(value.strip()) >= 32 for value in found.values())
    subprocess.run([script], check=True, timeout=STEP_S)
    assert found == {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_what_images_are_built_from_has_no_secrets() -> None:
    """.dockerignore lets in what is listed, and nothing else; .gitignore keeps out what is made here."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not {"!compose", "!compose/*", "!compose/secrets", "!compose/.env", "!.git", "!*"} & set(rules)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/compose/secrets/", "/compose/.env"} <= set(ignored)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    """systemd-analyze finds no fault but that the program is not installed here, and not much that is exposed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed (Debian: apt-get install systemd)")
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=STEP_S
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "millstream-" in line]
    assert complaints == []
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", copy],
        capture_output=True, text=True, timeout=STEP_S,
    )  # fmt: skip
    if "Unknown" not in done.stderr and "unrecognized option" not in done.stderr:
        assert done.returncode == 0, done.stdout[-2000:]
