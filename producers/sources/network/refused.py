"""Refused: what an HTTP request is answered that is not taken. Pure."""

RETRY_AFTER_S = 2


class Refused(Exception):
    """Nothing of the request was taken.

    Attributes:
        status: of the answer. headers: more of the answer.
    """

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


def not_now(why: str) -> Refused:
    """The same may be taken a little later."""
    return Refused(503, why, retry_after=f"{RETRY_AFTER_S}")
