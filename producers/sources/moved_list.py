"""MovedList: tasks from a list to a stream that one script reaches with it: each is popped and appended in one step."""

from pipeline.server.bridging import (
    checked,
    load_scripts,
    look_command,
    move_command,
    parse_look,
    parse_moved,
)
from pipeline.server.connect import Connector, Link
from producers.sources.list_course import Course
from producers.sources.tasks import Made


class MovedList:
    """A list and a stream that one script may move tasks between."""

    def __init__(self, course: Course, connector: Connector) -> None:
        self._course = course
        self._connector = connector
        self._link: Link | None = None

    def run(self) -> None:
        """See Way."""
        course = self._course
        link = self._link = self._connector.link("bridge")
        load_scripts(link)
        while not course.stop.is_set():
            looked = self._look(link)
            if looked:
                self._move(link, looked)
            elif not course.follow:
                return
            else:
                course.await_task(link)

    def close(self) -> None:
        """See Way."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _look(self, link: Link) -> list[bytes]:
        queue = self._course.queue
        return parse_look(queue, link.call(*look_command(queue, self._course.most)))

    def _move(self, link: Link, looked: list[bytes]) -> None:
        """Move what was looked at and what comes, until nothing does.

        While the server moves tasks, the entries of those behind them are made.
        """
        course, queue = self._course, self._course.queue
        cap_entries = course.producer.options.max_stream_entries
        made = course.next(looked)
        if made.stopped is not None and not made.tasks:
            raise made.stopped
        while made.tasks and not course.stop.is_set():
            link.send(
                move_command(queue, course.stream, made.tasks, cap_entries=cap_entries),
                look_command(queue, course.most, skip=len(looked)),
            )
            coming = course.next(looked) if made.stopped is None else Made()
            reply, more = link.read_or_error(), link.read_or_error()
            moved = parse_moved(checked(reply))
            course.moved(made, moved.indices())
            if made.stopped is not None or moved.standing or not moved.moved:
                # Something else stands at the take end than was looked at: look again.
                break
            looked += parse_look(queue, checked(more))
            made = coming if coming.tasks else course.next(looked)
