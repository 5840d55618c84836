"""Corpus: the inputs that are kept of each target, a file each."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.seeds import seeds

FOLDER = Path(__file__).parent / "corpus"
_WORTH_TRYING = (
    0x00,
    0x01,
    0x7F,
    0x80,
    0x90,
    0xA0,
    0xC0,
    0xC1,
    0xC4,
    0xCC,
    0xCF,
    0xD4,
    0xDC,
    0xDD,
    0xDF,
    0xFF,
)


def inputs(target: str) -> list[bytes]:
    """What is kept of a target, and what it began with."""
    kept = sorted((FOLDER / target).glob("*")) if (FOLDER / target).is_dir() else []
    return [*(path.read_bytes() for path in kept), *seeds()[target]]


def keep(target: str, raw: bytes) -> None:
    """Add an input, under the hash of its bytes."""
    (FOLDER / target).mkdir(parents=True, exist_ok=True)
    (FOLDER / target / hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:12]).write_bytes(raw)


def mutated(known: list[bytes], count: int, seed: int | str) -> Iterator[bytes]:
    """So many inputs made from known ones: bytes set, flipped, dropped, doubled, and parts of two put together."""
    rng = random.Random(seed)
    for _ in range(count):
        raw = bytearray(rng.choice(known))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(raw) + 1)
            how = rng.randrange(6)
            if how == 0:
                raw[at : at + 1] = bytes([rng.choice(_WORTH_TRYING)])
            elif how == 1 and at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            elif how == 2:
                del raw[at : at + rng.randint(1, 8)]
            elif how == 3:
                raw[at:at] = raw[at : at + rng.randint(1, 16)] * rng.choice((1, 1, 2, 50))
            elif how == 4:
                raw[at:at] = bytes([rng.choice(_WORTH_TRYING), rng.randrange(256)])
            else:
                other = rng.choice(known)
                raw[at:] = other[rng.randrange(len(other) + 1) :]
        yield bytes(raw[:8_192])
