"""The house holds: imports point down, no cycles within a floor, third-party names have one home each.

Imports are read, not run: those inside functions and under TYPE_CHECKING count like all others.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("pipeline", "producers", "consumers", "console", "millstream", "benchmarks")

# Longest prefix wins. A floor imports the floors below it and itself; producers and consumers are siblings.
FLOORS = {
    "benchmarks.limits": -1,  # below the house: what it is compared with imports nothing of it
    "pipeline": 0,
    "pipeline.server": 1,
    "pipeline.observe": 1,
    "producers": 2,
    "consumers": 2,
    "console": 3,
    "millstream": 4,
    "benchmarks": 5,  # scripts: nothing imports them
}
HOMES = {
    # The limits are not ours to build on: only what measures knows them.
    "benchmarks": ("benchmarks", "console.bench"),
    "redis": ("pipeline.server",),
    "hiredis": ("pipeline.server", "benchmarks.limits"),
    "msgpack": ("pipeline.codec", "benchmarks.limits"),
    "ormsgpack": ("pipeline.codec", "benchmarks.limits"),
    "zstandard": (
        "pipeline",
        "producers.sources.opened",
        "producers.sources.network.inflate",
        "benchmarks.limits",
        "consumers.sinks.rotated",
    ),
    # The demo's service and the benchmark of log calls stand for a user's application.
    "structlog": ("pipeline.observe", "producers.logs", "console.demo.service", "benchmarks.logs"),
    "psycopg": ("producers.sources.postgres", "consumers.sinks.postgres"),
    "uvicorn": ("producers.sources.network.http_server",),
    "urllib3": ("consumers.sinks.http",),
    "pyarrow": ("consumers.sinks.parquet",),
    "click": ("console",),
    "rich": ("console",),
}
# Floor 0 is pure: whoever imports one of these there reaches for a file, a socket, the environment or a process.
IMPURE = {
    "os",
    "socket",
    "subprocess",
    "pathlib",
    "tempfile",
    "shutil",
    "threading",
    "asyncio",
    "logging",
    "signal",
}


@dataclass(frozen=True, order=True)
class Arrow:
    """One import: which module imports which, and where it says so."""

    module: str
    imports: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.imports}"


def within(name: str, prefix: str) -> bool:
    """Whether the dotted name is the prefix or lies beneath it."""
    return name == prefix or name.startswith(f"{prefix}.")


def floor_of(module: str) -> int:
    """The floor a module stands on."""
    return FLOORS[max((prefix for prefix in FLOORS if within(module, prefix)), key=len)]


def modules_of(root: Path) -> dict[str, Path]:
    """All modules of the house, by dotted name."""
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows_of(root: Path) -> list[Arrow]:
    """All imports in the house. `from pipeline import keys` is an import of pipeline.keys."""
    modules = modules_of(root)

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module

    return [
        Arrow(module, target, node.lineno)
        for module, path in modules.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in targets(node)
    ]


def upward(root: Path) -> list[str]:
    """Imports that point up, or across between siblings."""
    wrong = []
    for arrow in arrows_of(root):
        if arrow.imports.split(".")[0] not in FOLDERS:
            continue
        own, other = floor_of(arrow.module), floor_of(arrow.imports)
        siblings = own == other == 2 and arrow.module.split(".")[0] != arrow.imports.split(".")[0]
        if other > own or siblings:
            wrong.append(str(arrow))
    return wrong


def cycles(root: Path) -> list[str]:
    """Modules that import one another, directly or round about."""
    graph: dict[str, set[str]] = {module: set() for module in modules_of(root)}
    for arrow in arrows_of(root):
        # A module that imports its own package's __init__ is no cycle: those are empty but for the public list.
        if arrow.imports in graph and arrow.imports != arrow.module and arrow.module != "millstream":
            graph[arrow.module].add(arrow.imports)
    found: list[str] = []
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                walk(target, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())
    return found


def strangers(root: Path) -> list[str]:
    """Third-party names outside their home, and impure ones on floor 0."""
    wrong = []
    for arrow in arrows_of(root):
        top = arrow.imports.split(".")[0]
        homes = HOMES.get(top)
        if homes and not any(within(arrow.module, home) for home in homes):
            wrong.append(f"{arrow}, whose home is {' and '.join(homes)}")
        if top in IMPURE and floor_of(arrow.module) == 0:
            wrong.append(f"{arrow}, but floor 0 is pure")
    return wrong


def named_in_strings(root: Path) -> list[str]:
    """Modules named in strings: the build hook moves import lines only, so such a name is wrong in the wheel."""
    modules = modules_of(root)
    return [
        f"{module}:{node.lineno} names {node.value!r} in a string"
        for module, path in modules.items()
        if module != "millstream"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if "." in node.value
        and " " not in node.value
        and node.value.partition(":")[0] in modules
        and not node.value.startswith("millstream")
    ]


def test_imports_point_down_only() -> None:
    """No module imports from a floor above its own, and no sibling imports the other."""
    assert upward(ROOT) == []


def test_no_modules_import_one_another() -> None:
    """Within a floor, too, there is an order."""
    assert cycles(ROOT) == []


def test_third_party_names_stay_in_their_homes() -> None:
    """redis, msgpack, structlog, click and rich have one home each, and floor 0 does no I/O."""
    assert strangers(ROOT) == []


def test_no_module_is_named_in_a_string() -> None:
    """`python -m consumers.x` and import_module("pipeline.y") would not be found in the wheel; use __name__."""
    assert named_in_strings(ROOT) == []


def house(root: Path, files: dict[str, str]) -> Path:
    """A house of these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("pipeline/event.py", "from pipeline.server.connect import Link"),
        ("pipeline/event.py", "from pipeline import server"),
        ("pipeline/server/connect.py", "import producers.producer as p"),
        ("producers/producer.py", "def f():\n    from consumers.app import Pipeline"),
        (
            "consumers/app.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from console import cli",
        ),
        ("console/cli/main.py", "import millstream"),
        ("benchmarks/limits/append.py", "from pipeline.wire import encode_entry"),
        ("console/bench/rounds.py", "from benchmarks.soak import main"),
    ],
)
def test_an_arrow_that_points_up_or_across_is_found(tmp_path: Path, module: str, text: str) -> None:
    """Also inside a function and under TYPE_CHECKING."""
    root = house(tmp_path, {"pipeline/server/__init__.py": "", "console/cli/__init__.py": "", module: text})
    assert len(upward(root)) == 1
    assert upward(root)[0].startswith(module.removesuffix(".py").replace("/", "."))


def test_an_arrow_that_points_down_is_allowed(tmp_path: Path) -> None:
    """Each floor may use those below, and its own."""
    files = {
        "pipeline/event.py": "from pipeline.errors import UsageError",
        "pipeline/server/connect.py": "from pipeline.event import Event",
        "consumers/app.py": "from pipeline.server.connect import Link\nfrom consumers.engine import Engine",
        "console/cli/main.py": "from consumers.app import Pipeline\nfrom producers.producer import Producer",
        "millstream/__init__.py": "from console.cli.main import main",
        "console/bench/bare.py": "from benchmarks.limits.append import append",
        "benchmarks/soak.py": "from console.bench.bare import bare_append",
    }
    assert upward(house(tmp_path, files)) == []


def test_a_cycle_is_found(tmp_path: Path) -> None:
    """Round about as well as directly."""
    files = {
        "pipeline/a.py": "from pipeline.b import B",
        "pipeline/b.py": "from pipeline import c",
        "pipeline/c.py": "def f():\n    from pipeline.a import A",
    }
    assert cycles(house(tmp_path, files)) == ["pipeline.a -> pipeline.b -> pipeline.c -> pipeline.a"]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("consumers/app.py", "import redis"),
        ("pipeline/wire.py", "from msgpack import packb"),
        ("pipeline/server/connect.py", "import structlog.stdlib"),
        ("producers/producer.py", "import structlog"),
        ("pipeline/event.py", "import os.path"),
        ("producers/sender.py", "from benchmarks.limits.append import append"),
        ("benchmarks/soak.py", "import hiredis"),
    ],
)
def test_a_stranger_is_found(tmp_path: Path, module: str, text: str) -> None:
    """A third-party name outside its home, or I/O on floor 0."""
    assert len(strangers(house(tmp_path, {module: text}))) == 1


def test_a_module_named_in_a_string_is_found(tmp_path: Path) -> None:
    """As import_module or `python -m` would take it."""
    files = {
        "consumers/app.py": "",
        "console/x.py": "import_module('consumers.app'); f('consumers.app:main')",
    }
    assert len(named_in_strings(house(tmp_path, files))) == 2
