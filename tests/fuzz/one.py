"""one: one target under libFuzzer. Started by __main__, a process for each target, since libFuzzer ends its own."""

import sys

import atheris  # in the extra `fuzz`

with atheris.instrument_imports(
    include=["pipeline", "producers", "consumers", "console"], enable_loader_override=False
):
    from tests.fuzz import targets


def main() -> None:
    """python -m tests.fuzz.one TARGET PROGRAM, then what libFuzzer takes; it starts PROGRAM to do the same."""
    name = sys.argv.pop(1)
    sys.argv[0] = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda raw: targets.run(name, raw))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
