"""OwnServer: a server for a benchmark alone, with an append-only file synced every second; or the one at --url."""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.server.embedded import EmbeddedServer


@contextmanager
def server(url: str | None, program: str | None) -> Iterator[str]:
    """The address to measure at: the one given, else that of a server that runs while the block does."""
    if url is not None:
        yield url
        return
    folder = tempfile.mkdtemp(prefix="millstream-benchmark-")
    try:
        with EmbeddedServer.acquire(folder, binary=program) as embedded:
            yield f"unix://{embedded.address.path}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parser(about: str) -> argparse.ArgumentParser:
    """What every benchmark takes as a script."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    where = made.add_mutually_exclusive_group()
    where.add_argument("--url", help="measure at this server; default: an own one, which is gone afterwards")
    where.add_argument(
        "--server", metavar="PROGRAM", help="the program of the own server; default: the embedded one"
    )
    made.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return made
