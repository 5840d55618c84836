"""Build hook: the four folders stand beneath `millstream/` in the wheel: nothing generic is installed.

In the repository code says `from pipeline.event import Event`; in the wheel the same line says
`from millstream.pipeline.event import Event`. An editable install takes the repository as it is.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("pipeline", "producers", "consumers", "console")
IMPORT = re.compile(rf"^([ \t]*(?:from|import)[ \t]+)((?:{'|'.join(FOLDERS)})\b.*)$", re.MULTILINE)


def rewritten(text: str, shown: str = "the source") -> str:
    """The source text with its imports of the four folders pointing beneath millstream."""

    def moved(match: re.Match[str]) -> str:
        if match[1].lstrip().startswith("import") and " as " not in match[2]:
            raise ValueError(f"{shown}: {match[0].strip()!r} cannot be moved; write `from … import …`")
        return f"{match[1]}millstream.{match[2]}"

    return IMPORT.sub(moved, text)


class CustomBuildHook(BuildHookInterface[Any]):
    """Gives hatchling a rewritten copy of the tree, and removes the copy afterwards."""

    copy: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the copy and name it as what the wheel holds."""
        if version == "editable":
            return
        self.copy = Path(tempfile.mkdtemp(prefix="millstream-build-"))
        top = self.copy / "millstream"
        for folder in ("millstream", *FOLDERS):
            target = top if folder == "millstream" else top / folder
            shutil.copytree(Path(self.root) / folder, target, ignore=shutil.ignore_patterns("__pycache__"))
        for source in top.rglob("*.py"):
            source.write_text(rewritten(source.read_text("utf-8"), str(source.relative_to(top))), "utf-8")
        build_data["force_include"][str(top)] = "millstream"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        if self.copy is not None:
            shutil.rmtree(self.copy, ignore_errors=True)
