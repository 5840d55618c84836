"""make fuzz: each target under libFuzzer (atheris) for some seconds; what covers something new is kept, minimised.

What fails is kept too, in the target's folder of the corpus, so that the tests fail with it until it is mended.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.corpus import FOLDER, inputs, keep
from tests.fuzz.targets import TARGETS

MAX_INPUT_BYTES = 4_096
MAX_KEPT = 120
"""Files kept of a target: of more, the smallest."""
MAX_KEPT_BYTES = 512
LIMITS = ("-timeout=10", "-rss_limit_mb=1024")


def main() -> int:
    """0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz the decoders.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    given = parser.parse_args()
    wrong = sorted(set(given.targets) - TARGETS.keys())
    if wrong:
        parser.error(f"no such target: {', '.join(wrong)}")
    failed = [target for target in given.targets or TARGETS if not fuzz(target, given.seconds)]
    said = f"fuzz: {len(failed)} of {len(given.targets or TARGETS)} targets failed {' '.join(failed)}"
    sys.stdout.write(f"{said.rstrip()}\n")
    return 1 if failed else 0


def fuzz(target: str, seconds: int) -> bool:
    """One target; False if an input was found that fails. The corpus is then as it was, with that input."""
    with tempfile.TemporaryDirectory(prefix="millstream-fuzz-") as folder:
        known, found, merged = (Path(folder, name) for name in ("known", "found", "merged"))
        for each in (known, found, merged):
            each.mkdir()
        for number, raw in enumerate(inputs(target)):
            (known / f"{number:04d}").write_bytes(raw)
        program = Path(folder, "program")
        program.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {__package__}.one {target} "$0" "$@"\n'
        )
        program.chmod(0o700)
        options = (f"-max_len={MAX_INPUT_BYTES}", *LIMITS, f"-artifact_prefix={folder}/failed-")
        code = run(program, f"-max_total_time={seconds}", "-print_final_stats=1", *options, found, known)
        failures = list(Path(folder).glob("failed-*"))
        for path in failures:
            keep(target, path.read_bytes())
        if code or failures:
            return False
        run(program, "-merge=1", *options, merged, known, found)
        kept = sorted((path.read_bytes() for path in merged.iterdir()), key=lambda raw: (len(raw), raw))
    for path in (FOLDER / target).glob("*"):
        path.unlink()
    for raw in [raw for raw in kept if len(raw) <= MAX_KEPT_BYTES][:MAX_KEPT]:
        keep(target, raw)
    return True


def run(program: Path, *options: object) -> int:
    """One process of libFuzzer; its exit code."""
    return subprocess.run([program, *map(str, options)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
