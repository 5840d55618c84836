"""Persistent: asks again over a new connection, waits out what passes, and says whether an answer was lost."""

import pytest

from consumers.persistent import Persistent
from pipeline.errors import NoSuchGroupError, NotConnectedError, ServerRefusedError
from pipeline.server.connect import Connector, Link
from tests.conftest import Server
from tests.proxy import Proxy


@pytest.fixture
def server_of_run(server: Server) -> Connector:
    """The run's server."""
    return server.connector()


def test_an_answer_that_was_lost_is_asked_for_again(server: Server, stream: str) -> None:
    """And known to be one whose question may have been carried out before."""
    with Proxy(server.address) as proxy:
        connector = Connector(proxy.url)
        asking = Persistent(connector, "test", patience_ms=10_000)
        assert asking.ask(lambda link: link.call("INCR", stream)) == 1
        assert not asking.repeated
        proxy.swallow_every(6)
        said: list[str] = []
        asking.say = said.append
        counts = [asking.ask(lambda link: link.call("INCR", stream)) for _ in range(10)]
        assert proxy.swallowed
        assert counts[-1] > 11
        assert said
        assert said[-1] == ""
        asking.close()
        connector.close()


def test_what_passes_is_waited_out(server_of_run: Connector, stream: str) -> None:
    """Told once per try; nothing was done meanwhile, so nothing is repeated."""
    said: list[str] = []
    asking = Persistent(server_of_run, "test", patience_ms=10_000, say=said.append)
    refusals = iter([ServerRefusedError("no memory", code="OOM", passing=True)] * 2)

    def question(link: Link) -> int:
        refusal = next(refusals, None)
        if refusal is not None:
            raise refusal
        return int(link.call("INCR", stream))

    assert asking.ask(question) == 1
    assert said == ["no memory", "no memory", ""]
    assert not asking.repeated
    asking.close()


def test_patience_has_an_end(server_of_run: Connector) -> None:
    """What lasts is raised; what no waiting mends is raised at once."""
    asking = Persistent(server_of_run, "test", patience_ms=50)
    tries = 0

    def question(link: Link) -> None:
        nonlocal tries
        tries += 1
        raise ServerRefusedError("no memory", code="OOM", passing=True)

    with pytest.raises(ServerRefusedError):
        asking.ask(question)
    assert tries > 1
    with pytest.raises(NoSuchGroupError):
        asking.ask(lambda link: link.call("XPENDING", "nothing-there", "g"))
    asking.close()
    away = Persistent(Connector("unix:///tmp/nobody-listens-here"), "test", patience_ms=0)
    with pytest.raises(NotConnectedError):
        away.ask(lambda link: link.call("PING"))
