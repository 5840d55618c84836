"""Templates: a text with {field} in it, as a function of an event's data."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_FIELD = re.compile(r"\{([\w.@-]+)\}")


def of(template: str) -> str | Callable[[Any], str]:
    """The text itself, or what makes it from a line's data."""
    return (lambda data: filled(template, data)) if _FIELD.search(template) else template


def filled(template: str, data: Any) -> str:
    """The text with each {field} replaced by that field of the data; one that is not there is empty."""

    def value(match: re.Match[str]) -> str:
        found = data
        for name in (match[1],) if isinstance(data, Mapping) and match[1] in data else match[1].split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return "" if found is None else str(found)

    return _FIELD.sub(value, template)
