"""Tables: what Millstream keeps in a user's own PostgreSQL, as the statements that make it. Pure."""

import re

from pipeline.errors import UsageError

INBOX = "millstream_inbox"
OUTBOX = "millstream_outbox"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?")


def check_table(name: str, option: str = "table") -> str:
    """The name itself, if a table may be called so. The option is named in the error.

    Raises:
        UsageError: anything but small letters, digits and _, with a schema before it if need be.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{option}={name!r}: small letters, digits and _, up to 63, with a schema before it if need be (app.inbox)"
        )
    return name


def inbox_ddl(table: str = INBOX) -> str:
    """The statement that makes the inbox: which events a group's transactions have done."""
    return f"""CREATE TABLE IF NOT EXISTS {check_table(table)} (
    stream      text        NOT NULL,
    group_name  text        NOT NULL,
    event_id    text        NOT NULL,
    done_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, group_name, event_id)
)"""


def outbox_ddl(table: str = OUTBOX) -> str:
    """The statement that makes the outbox: events that are to be sent once their transaction is committed."""
    return f"""CREATE TABLE IF NOT EXISTS {check_table(table)} (
    number      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    text        NOT NULL DEFAULT gen_random_uuid()::text,
    stream      text,                                 -- NULL: the relay's
    type        text        NOT NULL DEFAULT '',
    key         text        NOT NULL DEFAULT '',
    data        jsonb,
    headers     jsonb       NOT NULL DEFAULT '{{}}',
    time        timestamptz NOT NULL DEFAULT now(),
    problem     text                                  -- why it can never be sent; such rows are passed over
)"""


def events_ddl(table: str) -> str:
    """The statement that makes the table of the sink `postgresql:`: a row per event, each once."""
    return f"""CREATE TABLE IF NOT EXISTS {check_table(table)} (
    stream      text        NOT NULL,                 -- where it was read from
    event_id    text        NOT NULL,
    time        timestamptz NOT NULL,
    type        text        NOT NULL,
    key         text        NOT NULL,
    source      text        NOT NULL,
    level       text,                                 -- data's field of this name, where it is text
    data        jsonb,
    headers     jsonb       NOT NULL,
    PRIMARY KEY (stream, event_id)                    -- ids are unique within a stream
)"""
