"""Errors: everything Millstream raises, by what the caller can do about it.

One line says what went wrong, what was measured, what is allowed and which option decides. No error carries a
password, and no error type of a third party leaves the folder it belongs to.
"""


class MillstreamError(Exception):
    """The base of all errors that Millstream raises.

    Attributes:
        code: first word of the server's answer, such as OOM or NOPERM; empty where it is not an answer.
    """

    code: str = ""


class UsageError(MillstreamError, ValueError):
    """An option, a name or a value that cannot be accepted; nothing was done."""


class NotFoundError(MillstreamError):
    """A stream, group, consumer or entry that does not exist."""


class NoSuchStreamError(NotFoundError):
    """The stream does not exist."""


class NoSuchGroupError(NotFoundError):
    """The consumer group does not exist on that stream (NOGROUP)."""


class NoServerError(MillstreamError):
    """No server address was given, nor found in the environment; or the embedded server cannot be started."""


class NotConnectedError(MillstreamError):
    """The server cannot be reached, or the connection broke: what was under way may or may not have happened."""


class AccessDeniedError(MillstreamError):
    """The server refused the password, the user, the certificate, or the user's rights to a command or key."""


class UnsupportedServerError(MillstreamError):
    """The server is too old, or cannot give what was asked for (a confirm level, for one)."""


class WrongKeyTypeError(MillstreamError):
    """The key exists and holds another type than the one Millstream keeps there (WRONGTYPE)."""


class ServerRefusedError(MillstreamError):
    """The server answered with an error, so the command did nothing.

    Attributes:
        code: the first word of the server's answer, such as OOM, LOADING, MISCONF, READONLY, NOREPLICAS, BUSY.
        passing: True when the cause may go away by itself and the same command may then succeed.
    """

    def __init__(self, message: str, *, code: str = "ERR", passing: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.passing = passing


class EncodeError(MillstreamError, TypeError):
    """The data holds something that cannot be sent; the message names where and what."""


class EventTooLargeError(MillstreamError):
    """An event or pack exceeds the limit for one entry; refused before anything was sent."""


class DecodeError(MillstreamError):
    """The bytes of an entry are corrupt, or exceed what a reader accepts: a dead letter."""


class UnknownFormatError(MillstreamError):
    """The entry was written in a format this version does not know: released for a newer member, never dead."""


class UnknownFunctionError(MillstreamError):
    """A task asks for a function that no handler is registered for, or for none at all: retried, as a worker that knows
    it may come, and then a dead letter that names those that are."""


class ArgumentsError(MillstreamError):
    """A task's arguments do not fit the function it asks for: a dead letter at once."""


class MaxRunError(MillstreamError):
    """A handler ran beyond max_run: the attempt failed."""


class TakenOverError(MillstreamError):
    """The task was given to another taker meanwhile: settling it does nothing, and what was done may be done twice."""


class EffectRefusedError(MillstreamError):
    """What a handler wanted done in the step that settles its event cannot be: wrong key type, no number there, …"""


class BufferFull(MillstreamError):
    """The producer's buffer is full and its policy is to fail, or blocking took too long. Nothing was queued."""


class SendError(MillstreamError):
    """A send failed: the event is not in the stream."""


class SendUnknownError(SendError):
    """A send was not answered within its timeout: the event may or may not be in the stream."""


class NotConfirmed(SendError):
    """The event is in the stream, but the confirm level asked for was not reached in time.

    Attributes:
        entry_id: where it stands. reached: the level that was reached, such as "accepted".
    """

    def __init__(self, message: str, *, entry_id: str, reached: str) -> None:
        super().__init__(message)
        self.entry_id = entry_id
        self.reached = reached


class ClosedError(MillstreamError):
    """The producer or consumer is closed."""


class SinkAway(MillstreamError):
    """A sink's target takes no events just now: unreachable, slow, full, 429, 503. Not the events' fault: they wait.

    Attributes:
        retry_after_s: how long the target asks to be left alone, in s; None if it does not say.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class SinkRefused(SinkAway):
    """A sink's target refuses whatever it is sent: wrong password, missing right or table. Events wait for a person."""


class SinkError(MillstreamError):
    """A sink's target failed at one event: the attempt counts; after the last it is a dead letter with its words."""


class WebhookError(MillstreamError):
    """A request that claims to be our webhook's is not signed with the secret, is too old, or holds no events."""
