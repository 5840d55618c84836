"""Answers of targets: whatever comes back, events are settled by what was understood, or wait; no other error comes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.sinks.clickhouse import inserted
from consumers.sinks.halving import RequestFailed, RequestRefused
from consumers.sinks.http import Answer, retry_after_s, taken
from consumers.sinks.loki import pushed
from consumers.sinks.opensearch import read_items
from consumers.sinks.otlp import partial_success
from consumers.sinks.webhook import read_results
from pipeline.errors import SinkAway, SinkError
from pipeline.outcome import Outcomes, Reject

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "errors items create status error type reason results id retry_after partialSuccess".split()
            )
            | st.sampled_from(["rejectedLogRecords", "errorMessage"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BULK = st.fixed_dictionaries(
    {
        "errors": st.just(True),
        "items": st.lists(st.fixed_dictionaries({"create": ANY}), min_size=2, max_size=2),
    }
)
RESULTS = st.fixed_dictionaries(
    {
        "results": st.lists(
            st.fixed_dictionaries(
                {"id": st.sampled_from("ab"), "status": st.integers()},
                optional={"reason": ANY, "retry_after": ANY},
            ),
            max_size=3,
        )
    }
)
PARTIAL = st.fixed_dictionaries({"partialSuccess": ANY})
BODIES = (ANY | BULK | RESULTS | PARTIAL).map(lambda value: json.dumps(value).encode()) | st.binary(
    max_size=50
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "location", "x-clickhouse-exception-code"]),
    st.text(st.characters(max_codepoint=255), max_size=12),
)
ANSWERS = st.builds(
    Answer, st.integers(100, 599) | st.sampled_from([200, 204, 260, 400, 429, 500]), HEADERS, BODIES
)
READERS: dict[str, Callable[[Answer, Outcomes], Any]] = {
    "taken": lambda answer, _: taken(answer),
    "clickhouse": lambda answer, _: inserted(answer),
    "loki": lambda answer, _: pushed(answer),
    "opensearch": lambda answer, outcomes: read_items(answer, [0, 1], outcomes),
    "otlp": lambda answer, _: partial_success(answer),
    "webhook": lambda answer, outcomes: read_results(answer, {0: "a", 1: "b"}, outcomes),
}


@pytest.mark.parametrize("reader", READERS)
@given(ANSWERS)
def test_any_answer_is_understood_or_waited_out(reader: str, answer: Answer) -> None:
    """Bytes, JSON of any shape, and shapes nearly right."""
    outcomes = Outcomes()
    said = ""
    try:
        READERS[reader](answer, outcomes)
    except (SinkAway, RequestRefused, RequestFailed) as raised:
        said = str(raised)
    assert said.isprintable()
    assert len(said) < 1_000
    for index, error in outcomes.errors.items():
        assert index in (0, 1)
        assert isinstance(error, SinkAway | SinkError | Reject)
        assert (
            not isinstance(error, SinkAway)
            or error.retry_after_s is None
            or 0 <= error.retry_after_s <= 3_600
        )


@given(st.text(max_size=40) | st.integers().map(str) | st.datetimes().map(str))
def test_any_retry_after_is_bounded(text: str) -> None:
    """Or not understood."""
    wait = retry_after_s(Answer(503, {"retry-after": text}))
    assert wait is None or 0 <= wait <= 3_600
