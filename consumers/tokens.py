"""Tokens: claims tokens that are as good as the newest one, since only our own claims lie between them.

A claim gives the group a new token, for others have lost entries by it; its member has lost none. Without this, each
claim of a long sweep would have the owners of all that the earlier ones brought checked one by one when it is settled.
"""

MOST = 1_000
"""So many older tokens are remembered; what is held under one that is not is checked by its owner."""


def token_ms(token: str) -> int:
    """When a token was given, by the server's clock in ms; 0 for none."""
    ms = token.partition("-")[0]
    return int(ms) if ms.isdecimal() else 0


class Tokens:
    """Follows the tokens of one member's claims. One thread tells of claims, any thread asks."""

    def __init__(self) -> None:
        # One value, so that who asks never sees old tokens beside a newest one that others' claims lie before.
        self._known: tuple[dict[str, None], str] = ({}, "")

    def claimed(self, before: str, token: str) -> None:
        """Our claim has replaced the token `before` by this one."""
        older, newest = self._known
        if (
            not before or before != newest
        ):  # others claimed, handed back or moved something since our last claim
            older = {}
        if before:  # none at all may come back: with the group, once it was removed
            older[before] = None
        if len(older) > MOST:
            del older[next(iter(older))]
        self._known = older, token

    def newest(self, token: str) -> str:
        """The newest token that stands for what was held under this one; itself, if that is not certain."""
        older, newest = self._known
        return newest if token in older else token
