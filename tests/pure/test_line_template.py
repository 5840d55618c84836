"""--template: lines of one's own making, of what is typed and of what cannot steer a terminal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.event_view import EventView
from console.line_template import LineTemplate
from console.output import as_time
from pipeline.errors import UsageError
from tests.pure.test_safe_text import BIDI, steers

AT_MS = 1_700_000_000_000


def view(data: Any, **more: Any) -> EventView:
    """An event."""
    given: dict[str, Any] = {
        "type": "order.placed",
        "key": "c-7",
        "id": "p-1",
        "headers": {"traceparent": "00-x"},
    }
    return EventView(
        stream="orders", entry_id="1-2", index=0, in_pack=False, time_ms=AT_MS, data=data, **given | more
    )


EVENT = view(
    {
        "level": "WARN",
        "event": "late",
        "id": 9,
        "time": "soon",
        "user": {"name": "Ada", "tags": ["a", "b"]},
        "items": [{"sku": 1}, {"sku": 2}],
        "http.status": 503,
        "none": None,
    }
)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("", ""),
        ("as it is", "as it is"),
        ("{time} {level} {data.event}", f"{as_time(AT_MS)} WARN late"),
        ("{stream} {entry_id} {index} {type} {key}", "orders 1-2 0 order.placed c-7"),
        ("{id} {data.id}", "p-1 9"),
        ("{data.time}", "soon"),
        ("{event}", "late"),
        ("{user.name} {data.user.name}", "Ada Ada"),
        ("{user}", '{"name": "Ada", "tags": ["a", "b"]}'),
        ("{user.tags}", '["a", "b"]'),
        ("{items.sku} {items.1.sku}", "[1, 2] 2"),
        ("{http.status}", "503"),
        ("{headers.traceparent} {headers.none}", "00-x "),
        ("[{missing}{none}{user.x.y}]", "[]"),
        ("[{level:8}] [{level:>8}] [{level:2}]", "[WARN    ] [    WARN] [WARN]"),
        (r"{level}\t{event}\\n\x", "WARN\tlate\\n\\x"),
        ("{{{level}}} {{}}", "{WARN} {}"),
    ],
)
def test_a_line_is_what_the_template_says(template: str, line: str) -> None:
    """The event's own by their names, fields of the data by theirs or behind data., nothing for what is not there."""
    assert LineTemplate(template).line(EVENT) == line


@pytest.mark.parametrize(
    ("template", "at"),
    [
        ("{", 1),
        ("a {level", 3),
        ("level}", 6),
        ("{}", 1),
        ("{a b}", 1),
        ("{a:x}", 1),
        ("{a..b}", 1),
        ("{{{a}}", 6),
    ],
)
def test_a_template_that_is_none_is_said_with_its_place(template: str, at: int) -> None:
    """One line that names the option."""
    with pytest.raises(UsageError, match=rf"^--template=.*expected {{field}}.* at character {at}$"):
        LineTemplate(template, "--template")


@given(st.text(st.characters() | st.sampled_from(f"\x1b\x07\x9b{BIDI}"), max_size=20))
def test_nothing_of_an_event_steers_the_terminal(evil: str) -> None:
    """Whichever field is shown."""
    event = view({"level": evil, "event": {evil: evil}}, type=evil, key=evil, id=evil, headers={"h": evil})
    shown = LineTemplate(
        "{level} {level:9} {event} {type} {key} {id} {headers} {headers.h} {data} {data.level}"
    )
    assert steers(shown.line(event)) == []


def test_the_level_is_coloured_where_colours_are() -> None:
    """Warnings yellow, errors red; what is no level as it is."""
    template = LineTemplate("{level:5}|{event}")
    assert template.line(EVENT, colored=True) == "\x1b[33mWARN \x1b[0m|late"
    assert template.line(view({"level": "error"}), colored=True) == "\x1b[31merror\x1b[0m|"
    assert template.line(view({"level": "loud"}), colored=True) == "loud |"
    assert template.line(view("text"), colored=True) == "     |"
