"""Millstream: an event pipeline on Redis Streams. This module is the public list and nothing else.

Each name is looked up on first use (PEP 562), so `import millstream` itself costs next to nothing.
"""

# Type checkers take this name for true; importing it from typing would cost 7 ms in every program that does not.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from consumers.app import Pipeline
    from consumers.consumer import Consumer
    from consumers.dead_letters import DeadLetters
    from consumers.delivery import Delivery
    from consumers.list_filler import Filled, fill_list
    from consumers.list_queue import ListQueue
    from consumers.postgres import PostgresInbox
    from consumers.replay import Replay
    from consumers.reset import plan_reset, reset_group
    from consumers.sinks.by_url import sink
    from consumers.sinks.lists import ListSink
    from consumers.sinks.patient import Patient
    from consumers.testing import TestPipeline
    from pipeline.dead_event import Cause, DeadEvent
    from pipeline.envelope import DeadLetter
    from pipeline.errors import (
        AccessDeniedError,
        ArgumentsError,
        BufferFull,
        ClosedError,
        DecodeError,
        EffectRefusedError,
        EncodeError,
        EventTooLargeError,
        MaxRunError,
        MillstreamError,
        NoServerError,
        NoSuchGroupError,
        NoSuchStreamError,
        NotConfirmed,
        NotConnectedError,
        NotFoundError,
        SendError,
        SendUnknownError,
        ServerRefusedError,
        SinkAway,
        SinkError,
        SinkRefused,
        TakenOverError,
        UnknownFormatError,
        UnknownFunctionError,
        UnsupportedServerError,
        UsageError,
        WebhookError,
        WrongKeyTypeError,
    )
    from pipeline.event import Event
    from pipeline.list_options import ListOptions
    from pipeline.options import ConsumerOptions, ProducerOptions, Retry
    from pipeline.outcome import Later, Outcome, Outcomes, Reject
    from pipeline.replay_plan import ReplayDone, ReplayPlan, ReplayProgress
    from pipeline.reset_plan import ResetDone, ResetPlan
    from pipeline.webhook import verify_webhook
    from producers.async_producer import AsyncProducer
    from producers.logs import LogHandler, ship_logs
    from producers.producer import Producer
    from producers.receipt import Receipt
    from producers.sources.feed import Fed, LineOptions
    from producers.sources.journal import JournalOptions, follow_journal
    from producers.sources.lists import follow_list
    from producers.sources.network.intake import Intake
    from producers.sources.postgres import PostgresOutbox, relay_outbox
    from producers.sources.several import follow_files
    from producers.sources.tasks import TaskOptions

__version__ = "0.1.0.dev0"

__all__ = [
    "AccessDeniedError",
    "ArgumentsError",
    "AsyncProducer",
    "BufferFull",
    "Cause",
    "ClosedError",
    "Consumer",
    "ConsumerOptions",
    "DeadEvent",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "Delivery",
    "EffectRefusedError",
    "EncodeError",
    "Event",
    "EventTooLargeError",
    "Fed",
    "Filled",
    "Intake",
    "JournalOptions",
    "Later",
    "LineOptions",
    "ListOptions",
    "ListQueue",
    "ListSink",
    "LogHandler",
    "MaxRunError",
    "MillstreamError",
    "NoServerError",
    "NoSuchGroupError",
    "NoSuchStreamError",
    "NotConfirmed",
    "NotConnectedError",
    "NotFoundError",
    "Outcome",
    "Outcomes",
    "Patient",
    "Pipeline",
    "PostgresInbox",
    "PostgresOutbox",
    "Producer",
    "ProducerOptions",
    "Receipt",
    "Reject",
    "Replay",
    "ReplayDone",
    "ReplayPlan",
    "ReplayProgress",
    "ResetDone",
    "ResetPlan",
    "Retry",
    "SendError",
    "SendUnknownError",
    "ServerRefusedError",
    "SinkAway",
    "SinkError",
    "SinkRefused",
    "TakenOverError",
    "TaskOptions",
    "TestPipeline",
    "UnknownFormatError",
    "UnknownFunctionError",
    "UnsupportedServerError",
    "UsageError",
    "WebhookError",
    "WrongKeyTypeError",
    "fill_list",
    "follow_files",
    "follow_journal",
    "follow_list",
    "plan_reset",
    "relay_outbox",
    "reset_group",
    "ship_logs",
    "sink",
    "verify_webhook",
]

# Where each name lives; what is not named here is an error class.
_HOMES = {
    "AsyncProducer": "producers.async_producer",
    "Cause": "pipeline.dead_event",
    "Consumer": "consumers.consumer",
    "ConsumerOptions": "pipeline.options",
    "DeadEvent": "pipeline.dead_event",
    "DeadLetter": "pipeline.envelope",
    "DeadLetters": "consumers.dead_letters",
    "Delivery": "consumers.delivery",
    "Event": "pipeline.event",
    "Fed": "producers.sources.feed",
    "Filled": "consumers.list_filler",
    "Intake": "producers.sources.network.intake",
    "JournalOptions": "producers.sources.journal",
    "Later": "pipeline.outcome",
    "LineOptions": "producers.sources.feed",
    "ListOptions": "pipeline.list_options",
    "ListQueue": "consumers.list_queue",
    "ListSink": "consumers.sinks.lists",
    "LogHandler": "producers.logs",
    "Outcome": "pipeline.outcome",
    "Outcomes": "pipeline.outcome",
    "Patient": "consumers.sinks.patient",
    "Pipeline": "consumers.app",
    "PostgresInbox": "consumers.postgres",
    "PostgresOutbox": "producers.sources.postgres",
    "Producer": "producers.producer",
    "ProducerOptions": "pipeline.options",
    "Receipt": "producers.receipt",
    "Reject": "pipeline.outcome",
    "Replay": "consumers.replay",
    "ReplayDone": "pipeline.replay_plan",
    "ReplayPlan": "pipeline.replay_plan",
    "ReplayProgress": "pipeline.replay_plan",
    "ResetDone": "pipeline.reset_plan",
    "ResetPlan": "pipeline.reset_plan",
    "Retry": "pipeline.options",
    "TaskOptions": "producers.sources.tasks",
    "TestPipeline": "consumers.testing",
    "fill_list": "consumers.list_filler",
    "follow_files": "producers.sources.several",
    "follow_journal": "producers.sources.journal",
    "follow_list": "producers.sources.lists",
    "plan_reset": "consumers.reset",
    "relay_outbox": "producers.sources.postgres",
    "reset_group": "consumers.reset",
    "ship_logs": "producers.logs",
    "sink": "consumers.sinks.by_url",
    "verify_webhook": "pipeline.webhook",
}


# Type checkers go by the imports above: seeing this function, they would take any misspelt name for public.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module
        from importlib.util import find_spec

        # In the wheel the folders stand beneath this package (hatch_build.py), in the repository beside it.
        beneath = f"{__name__}." if find_spec(f"{__name__}.pipeline") else ""
        value: object = getattr(import_module(beneath + _HOMES.get(name, "pipeline.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
