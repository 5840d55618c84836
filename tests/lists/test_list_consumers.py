"""Consumers of a list: tasks that old producers push run as events do, beside old workers, and are then gone."""

from pipeline.event import Event
from tests.lists.conftest import Listing
from tests.until import until


def test_tasks_of_a_list_run_in_order_and_are_gone(listing: Listing) -> None:
    """Pushed before a worker comes and while it waits; equal payloads are tasks of their own."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list, concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    before = [f'{{"n": {n}}}' for n in range(300)] + ["same", "same"]
    listing.push(*before)
    with listing.running():
        until(lambda: len(seen) == 302, what=lambda: f"{len(seen)} of 302")
        listing.push("one", "two", "two")
        until(lambda: len(seen) == 305)
        listing.until_gone()
    assert seen == [{"n": n} for n in range(300)] + ["same", "same", "one", "two", "two"]
