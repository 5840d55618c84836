"""Build hook: the folders of the house stand beneath `millstream/` in the wheel: nothing generic is installed.

In the repository code says `from pipeline.event import Event`; in the wheel the same line says
`from millstream.pipeline.event import Event`. An editable install takes the repository as it is.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("pipeline", "producers", "consumers", "console", "benchmarks")
SHIPPED = {"benchmarks": ("__init__.py", "limits")}
"""Of these folders only so much: `millstream bench` needs the limits, the rest are scripts for this repository."""
IMPORT = re.compile(rf"^([ \t]*(?:from|import)[ \t]+)((?:{'|'.join(FOLDERS)})\b.*)$", re.MULTILINE)


def rewritten(text: str, shown: str = "the source") -> str:
    """The source text with its imports of the folders pointing beneath millstream."""

    def moved(match: re.Match[str]) -> str:
        if match[1].lstrip().startswith("import") and " as " not in match[2]:
            raise ValueError(f"{shown}: {match[0].strip()!r} cannot be moved; write `from … import …`")
        return f"{match[1]}millstream.{match[2]}"

    return IMPORT.sub(moved, text)


def copy_house(root: Path, top: Path) -> None:
    """The folders of the repository, as they stand in the wheel beneath `top`."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        only = SHIPPED.get(str(Path(folder).relative_to(root)))
        return [name for name in names if name == "__pycache__" or (only is not None and name not in only)]

    for folder in ("millstream", *FOLDERS):
        shutil.copytree(root / folder, top if folder == "millstream" else top / folder, ignore=left_out)
    for source in top.rglob("*.py"):
        source.write_text(rewritten(source.read_text("utf-8"), str(source.relative_to(top))), "utf-8")


class CustomBuildHook(BuildHookInterface[Any]):
    """Gives hatchling a rewritten copy of the tree, and removes the copy afterwards."""

    copy: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the copy and name it as what the wheel holds."""
        if version == "editable":
            return
        self.copy = Path(tempfile.mkdtemp(prefix="millstream-build-"))
        top = self.copy / "millstream"
        copy_house(Path(self.root), top)
        build_data["force_include"][str(top)] = "millstream"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        if self.copy is not None:
            shutil.rmtree(self.copy, ignore_errors=True)
