"""ServerClock: what the server's clock should say now, judged by our own steady one.

Idle times and entry ids follow the server's wall clock, which may jump. Each answer that carries the server's time
is compared with the monotonic clock; claiming stops at a time no steady clock could have reached, and resumes after
one claim_after, in which every live consumer has renewed what it holds.
"""

MARGIN_MS = 1_000
"""Slack for slow replies and drift between two answers, in ms."""


class ServerClock:
    """Tracks the offset between the server's wall clock and our monotonic clock. Pure: times are passed in."""

    __slots__ = ("_least_ms", "_most_ms", "_suspended_until_ms")

    def __init__(self) -> None:
        # The offset lies between these two: as close to each other as the quickest answer was.
        self._least_ms: int | None = None
        self._most_ms = 0
        self._suspended_until_ms = 0

    def observe(self, server_ms: int, sent_ms: int, received_ms: int, *, claim_after_ms: int) -> bool:
        """Note an answer with the server's time; True if its clock jumped by more than a quarter of claim_after.

        The server read its clock somewhen between sent_ms and received_ms (ours, monotonic): a slow answer says
        little, and is never taken for a jump.
        """
        least, most = server_ms - received_ms, server_ms - sent_ms
        known_least, known_most = self._least_ms, self._most_ms
        margin_ms = max(claim_after_ms // 4, MARGIN_MS)
        jumped = known_least is not None and (
            known_most < least - margin_ms or known_least > most + margin_ms
        )
        if known_least is None or jumped:
            self._least_ms, self._most_ms = least, most
        elif known_most < least:  # drifted: follow, by as little as is certain
            self._least_ms = self._most_ms = least
        elif known_least > most:
            self._least_ms = self._most_ms = most
        else:
            self._least_ms, self._most_ms = max(known_least, least), min(known_most, most)
        if jumped:
            self.suspend(received_ms, claim_after_ms)
        return jumped

    def suspend(self, mono_ms: int, claim_after_ms: int) -> None:
        """Allow no claim for one claim_after: after a jump, or when the server behind the address is another."""
        self._suspended_until_ms = mono_ms + claim_after_ms

    def now_ms(self, mono_ms: int) -> int | None:
        """The server's time now, in ms since 1970; None before the first answer."""
        return None if self._least_ms is None else self._least_ms + mono_ms

    def claims_allowed(self, mono_ms: int) -> bool:
        """Whether idle times can be trusted just now."""
        return self._least_ms is not None and mono_ms >= self._suspended_until_ms

    def latest_ms(self, mono_ms: int, *, claim_after_ms: int) -> int:
        """The latest time a claim may find on the server: beyond it, its clock has jumped since the last answer."""
        return self._most_ms + mono_ms + max(claim_after_ms // 4, MARGIN_MS)
