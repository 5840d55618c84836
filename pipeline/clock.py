"""ServerClock: what the server's clock should say now, judged by our own steady one.

Idle times and entry ids follow the server's wall clock, which may jump. Each answer that carries the server's time
is compared with the monotonic clock; claiming stops at a time no steady clock could have reached, and resumes after
one claim_after, in which every live consumer has renewed what it holds.
"""

MARGIN_MS = 1_000
"""Slack for slow replies and drift between two answers, in ms."""


class ServerClock:
    """Tracks the offset between the server's wall clock and our monotonic clock. Pure: times are passed in."""

    __slots__ = ("_offset_ms", "_suspended_until_ms")

    def __init__(self) -> None:
        self._offset_ms: int | None = None
        self._suspended_until_ms = 0

    def observe(self, server_ms: int, sent_ms: int, received_ms: int, *, claim_after_ms: int) -> bool:
        """Note an answer with the server's time; True if its clock jumped by more than a quarter of claim_after.

        The server read its clock somewhen between sent_ms and received_ms (ours, monotonic): a slow answer says
        little, and is never taken for a jump.
        """
        least, most = server_ms - received_ms, server_ms - sent_ms
        known = self._offset_ms
        margin_ms = max(claim_after_ms // 4, MARGIN_MS)
        jumped = known is not None and not least - margin_ms <= known <= most + margin_ms
        if known is None or jumped:
            self._offset_ms = least
        else:
            self._offset_ms = min(max(known, least), most)
        if jumped:
            self.suspend(received_ms, claim_after_ms)
        return jumped

    def suspend(self, mono_ms: int, claim_after_ms: int) -> None:
        """Allow no claim for one claim_after: after a jump, or when the server behind the address is another."""
        self._suspended_until_ms = mono_ms + claim_after_ms

    def now_ms(self, mono_ms: int) -> int | None:
        """The server's time now, in ms since 1970; None before the first answer."""
        return None if self._offset_ms is None else self._offset_ms + mono_ms

    def claims_allowed(self, mono_ms: int) -> bool:
        """Whether idle times can be trusted just now."""
        return self._offset_ms is not None and mono_ms >= self._suspended_until_ms

    def latest_ms(self, mono_ms: int, *, claim_after_ms: int) -> int:
        """The latest time a claim may find on the server: beyond it, its clock has jumped since the last answer."""
        return (self._offset_ms or 0) + mono_ms + max(claim_after_ms // 4, MARGIN_MS)
