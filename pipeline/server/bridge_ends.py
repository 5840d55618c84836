"""Bridge ends: a list and a stream, each with the server it is on: whether that is one, and what is wrong there."""

from dataclasses import dataclass

from pipeline.errors import MillstreamError, WrongKeyTypeError
from pipeline.list_options import ListOptions
from pipeline.server.bridging import check_names, counter_key
from pipeline.server.connect import Connector
from pipeline.server.groups import of_other_types


@dataclass(frozen=True, slots=True)
class BridgeEnds:
    """What is bridged, in either direction."""

    queue: ListOptions
    stream: str
    list_server: Connector
    stream_server: Connector

    def are_on_one_server(self) -> bool:
        """Whether they share a server and its database, also if each is reached by an address of its own."""
        one, other = self.list_server, self.stream_server
        if one is other:
            return True
        here, there = one.capabilities().run_id, other.capabilities().run_id
        return bool(here) and here == there and one.address.db == other.address.db

    def check_names(self) -> None:
        """Raises: UsageError: both are one key, on one server."""
        if self.are_on_one_server():
            check_names(self.queue, self.stream)

    def named(self, error: WrongKeyTypeError, bridge: str) -> WrongKeyTypeError:
        """The error, with the keys that hold another type than they should; as far as the servers say."""
        keys = self.queue.keys
        position = f"bridge:{bridge}"
        of_list = {
            keys.list: "list",
            keys.bridge(bridge): "list",
            counter_key(self.queue, bridge): "string",
            keys.position(position): "string",
        }
        try:
            wrong: list[str] = []
            for server, types in ((self.list_server, of_list), (self.stream_server, {self.stream: "stream"})):
                link = server.link("bridge")
                try:
                    wrong += of_other_types(link, types)
                finally:
                    link.close()
        except MillstreamError:
            wrong = []  # the server is away by now; the error itself says enough
        why = ", ".join(wrong) or str(error)
        return WrongKeyTypeError(f"list {self.queue.name!r} or stream {self.stream!r}: {why}")

    def held(self, bridge: str) -> int:
        """How many tasks a bridge of this name holds for a stream in another slot or on another server."""
        link = self.list_server.link("bridge")
        try:
            count: int = link.call("LLEN", self.queue.keys.bridge(bridge))
            return count
        finally:
            link.close()
