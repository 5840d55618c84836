"""The demo's follower: sends the lines of real log files, as `millstream produce FILE --follow` does.

Each file has a producer and an account of its own. If killed, no line is lost or sent twice by the next run in the
same folder: the position is written by the script that appends.
"""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from console.demo.account import AccountWriter
from console.demo.children import begin
from console.demo.folder import STREAM, RunFolder
from console.demo.log_files import LogFile
from console.demo.recorded import RecordedProducer
from pipeline.errors import ClosedError, MillstreamError
from pipeline.observe.log import get_logger, log_to_stderr
from producers.sources.feed import Feed
from producers.sources.files import position_at
from producers.sources.follow import follow_file
from producers.sources.place import Position
from producers.sources.several import file_source

RECORD_S = 0.05
CLOSE_S = 20


class Followed:
    """One file on its way."""

    def __init__(
        self, run: RunFolder, who: str, file: LogFile, *, follow: bool, stop: threading.Event
    ) -> None:
        self.producer = RecordedProducer(run.url, AccountWriter(run.confirmed(who)))
        self.failed = False
        self._file = file
        self._follow = follow
        self._stop = stop
        self.thread = threading.Thread(target=self._run, name=who, daemon=True)

    def _run(self) -> None:
        path = str(self._file.path)
        try:
            self._begin_at_last_lines()
            # An entry for each line: dead letters and losses are told by the entry.
            follow_file(
                self.producer, STREAM, path, follow=self._follow, keep_position=True, pack=0, stop=self._stop
            )
        except ClosedError:
            return
        except (MillstreamError, OSError) as error:
            self.failed = True
            get_logger("demo").error("file is not followed any more", path=path, error=str(error))

    def _begin_at_last_lines(self) -> None:
        """Go on where the last run ended, unless that is before the last lines, or in another file of this name."""
        path = str(self._file.path)
        start = position_at(path, self._file.offset)
        feed = Feed(self.producer, STREAM, source=file_source(path), stop=self._stop)
        try:
            stored = Position.parse(feed.stored() or "")
            if stored is None or stored.inode != start.inode or stored.offset < start.offset:
                feed.forget()
                feed.remember(str(start))
        finally:
            feed.close()


def main() -> int:
    """Run as the follower: RUN-FOLDER follow|once [FILE OFFSET]..."""
    run, how, *named = RunFolder(Path(sys.argv[1])), *sys.argv[2:]
    begin(run, "follower")
    log_to_stderr()
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    files = [
        LogFile(path=Path(path), offset=int(offset))
        for path, offset in zip(named[::2], named[1::2], strict=True)
    ]
    followed = [
        Followed(run, f"file{number}", file, follow=how == "follow", stop=stop)
        for number, file in enumerate(files)
    ]
    for one in followed:
        one.thread.start()
    while any(one.thread.is_alive() for one in followed):
        for one in followed:
            one.producer.record()
            one.thread.join(RECORD_S / len(followed))
    codes = [one.producer.finish(CLOSE_S) for one in followed]
    return 1 if any(codes) or any(one.failed for one in followed) else 0


if __name__ == "__main__":
    sys.exit(main())
