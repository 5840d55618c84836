"""The README's examples do what it says they do."""

import re
import signal
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    """Python blocks of the README, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_first_example_runs_as_it_stands(tmp_path: Path) -> None:
    """Saved as example.py it confirms a send, handles the event, and ends cleanly on Ctrl-C."""
    (tmp_path / "example.py").write_text(blocks()[0], encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-u", "example.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert re.fullmatch(r"confirmed as \d+-\d+\n", process.stdout.readline())
    assert process.stdout.readline() == "billing 7\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "durable against a crash of the server" in said


def test_first_example_stands_within_thirty_lines() -> None:
    """A newcomer sees code of their own by line 30."""
    assert "```python" in "\n".join(README.read_text(encoding="utf-8").splitlines()[:30])


def test_every_example_is_valid_python() -> None:
    """No block of the README has a typo that stops it from being compiled."""
    for block in blocks():
        code = re.sub(
            r"\[\.\.\., ", "[", block
        )  # `processors=[..., ship_logs(…)]` leaves out the reader's own
        compile(code, "README.md", "exec")
