"""Types as facts of a group: what only another member takes is left to it, what nobody takes is acknowledged."""

import pytest

from consumers import membership
from consumers.app import Pipeline
from pipeline.event import Event
from pipeline.server.groups import declare_filter
from pipeline.server.overview import groups
from tests.consuming import Consuming, total
from tests.until import until

CLAIM_AFTER = "1s"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members hear of each other's types at every heartbeat."""
    monkeypatch.setattr(membership, "FILTER_MS", 0)


def declare(app: Pipeline, stream: str, types: list[str]) -> list[tuple[str, int]]:
    """A consumer of group g for these types; what it handles."""
    seen: list[tuple[str, int]] = []

    @app.consumer(stream, group="g", types=types, claim_after=CLAIM_AFTER)
    def handle(event: Event) -> None:
        seen.append((event.type, event.data))

    return seen


def fact(consuming: Consuming) -> str:
    """The group's filter as it stands."""
    return (consuming.link.call("HGET", consuming.keys.groups, "g:filter") or b"").decode()


def test_the_group_s_filter_is_what_its_members_take(consuming: Consuming) -> None:
    """Both while both are there; what the last one took stays for people to see."""
    declare(consuming.app, consuming.stream, ["order.placed", "a"])
    newer = Pipeline(consuming.url)
    declare(newer, consuming.stream, ["order.*"])
    with consuming.running():
        assert fact(consuming) == '["a", "order.placed"]'
        assert groups(consuming.link, consuming.stream, only="g")[0].types == "a, order.placed"
        with consuming.running(newer):
            assert fact(consuming) == '["a", "order.placed"]\n["order.*"]'
        assert fact(consuming) == '["a", "order.placed"]'
    assert fact(consuming) == '["a", "order.placed"]'
    with consuming.running(newer):
        assert fact(consuming) == '["order.*"]'


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("packed", [False, True])
def test_a_rolling_deploy_eats_no_new_type(consuming: Consuming, packed: bool) -> None:
    """An old member that reads an event of a type that only the new one takes leaves it to that one."""
    old = declare(consuming.app, consuming.stream, ["order.placed"])
    newer = Pipeline(consuming.url)
    new = declare(newer, consuming.stream, ["order.*"])
    with consuming.running() as first, consuming.running(newer):
        types = ["order.placed", "order.refunded", "payment"] * 20
        for n, type_ in enumerate(types):
            if packed and n % 3 == 0:
                consuming.send_pack(range(n, n + 3), types=types[n : n + 3])
            elif not packed:
                consuming.send(n, type=type_)
        consuming.until_drained(timeout_s=30)
        assert total(first.members)["released"] > 0, "the old member read none: nothing was shown"
    assert sorted(n for t, n in new if t == "order.refunded") == [*range(1, 60, 3)]
    assert sorted(n for t, n in old + new if t == "order.placed") == [*range(0, 60, 3)]
    assert not consuming.dead()


def test_what_was_passed_over_is_looked_at_again_if_the_filter_is_another_by_then(
    consuming: Consuming,
) -> None:
    """The script that settles sees a filter that its caller has not heard of, and settles nothing."""
    declare(consuming.app, consuming.stream, ["order.placed"])
    with consuming.running() as running:
        consuming.send(0, type="order.refunded")
        consuming.until_drained()  # nobody takes it yet
        declare_filter(consuming.link, consuming.keys, "g", "a new member", '["order.*"]')
        (single,) = consuming.send(1, type="order.refunded")
        pack = consuming.send_pack([2, 3], types=["order.placed", "order.refunded"])
        until(lambda: total(running.members)["released"] >= 2, what="they are left to the new member")
        until(lambda: single in consuming.pending() and pack not in consuming.pending())
        # Of the pack only what nobody here takes, whether it was read before that filter was known or after.
        until(lambda: consuming.again_entries() == 1)
        assert total(running.members)["filtered"] == 1


@pytest.mark.usefixtures("soon")
def test_what_was_left_is_acknowledged_once_nobody_takes_it_any_more(consuming: Consuming) -> None:
    """The newer member left: its types are the group's no more."""
    seen = declare(consuming.app, consuming.stream, ["order.placed"])
    declare_filter(consuming.link, consuming.keys, "g", "a new member", '["order.*"]')
    with consuming.running() as running:
        consuming.send(1, type="order.refunded")
        until(lambda: total(running.members)["released"], what="it is left to the new member")
        declare_filter(consuming.link, consuming.keys, "g", "a new member", "")
        consuming.until_drained(timeout_s=20)
    assert not seen
    assert total(running.members)["filtered"] == 1


def test_a_member_that_takes_all_leaves_nothing_and_others_leave_it_the_rest(consuming: Consuming) -> None:
    """No types are all types."""
    declare_filter(consuming.link, consuming.keys, "g", "takes all", "[]")
    declare(consuming.app, consuming.stream, ["order.placed"])
    with consuming.running() as running:
        (entry_id,) = consuming.send(1, type="anything")
        until(lambda: total(running.members)["released"], what="it is left")
        assert entry_id in consuming.pending()


def test_what_is_corrupt_in_s_groups_harms_nobody(consuming: Consuming) -> None:
    """Whatever stands there, a member notes its own types over it."""
    for wrong in ("{", "[1,2]", '"x"', '{"m": 1, "n": [1], "o": ["x", 2]}'):
        consuming.link.call("HSET", consuming.keys.groups, "g:filters", wrong)
        assert declare_filter(consuming.link, consuming.keys, "g", "m", '["a"]') == '["a"]'


def test_a_member_that_died_long_ago_takes_nothing(consuming: Consuming) -> None:
    """Its types are kept for an hour, for another of its version may come."""
    link, keys = consuming.link, consuming.keys
    seconds = int(link.call("TIME")[0])
    for ago_s, kept in ((3_590, True), (3_610, False)):
        noted = '{"dead": [%d, "[\\"b\\"]"]}' % ((seconds - ago_s) * 1_000)
        link.call("HSET", keys.groups, "g:filters", noted)
        assert ('["b"]' in declare_filter(link, keys, "g", "m", '["a"]')) is kept
