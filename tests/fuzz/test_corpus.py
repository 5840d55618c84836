"""What the fuzzer once found interesting, and what is made of it by small changes, does no harm to any decoder."""

import pytest

from tests.fuzz.corpus import inputs, mutated
from tests.fuzz.targets import TARGETS, run

MUTATIONS = 300


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_kept_does_no_harm(target: str) -> None:
    """Each file of the corpus."""
    for raw in inputs(target):
        run(target, raw)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_made_of_it_does_no_harm(target: str) -> None:
    """A few hundred small changes: the same in every run."""
    for raw in mutated(inputs(target), MUTATIONS, target):
        try:
            run(target, raw)
        except Exception as error:
            error.add_note(f"{target} with {raw!r}")
            raise
