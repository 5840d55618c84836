"""SinkUrl: `scheme:place?option=value` read, with every option checked against what its sink declares. Pure.

Passwords are kept out of `repr`, of `shown` and of every message. `${NAME}` stands for a variable of the environment,
`password_file=` for a file that is read anew for each connection.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from pipeline.errors import SinkRefused, UsageError
from pipeline.units import duration_ms, show_bytes, show_duration, size_bytes

Kind = Literal["text", "count", "size", "duration", "choice", "flag", "secret"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a sink's URL."""

    name: str
    kind: Kind
    default: str | None
    """As people write it; None: it has none, and its value is None, or it must be given (`needed`)."""
    help: str
    least: int | None = None
    """Least value of a count, a size (bytes) or a duration (ms)."""
    most: int | None = None
    choices: tuple[str, ...] = ()
    needed: bool = False

    @property
    def metavar(self) -> str:
        """What stands for its value: 30s, 100MB, yes|no, …"""
        if self.kind == "choice":
            return "|".join(self.choices)
        return {"flag": "yes|no", "secret": "TEXT", "text": "TEXT"}.get(self.kind, self.kind.upper())

    def value(self, text: str) -> Any:
        """The value of what was written: ms of a duration, bytes of a size, an int, a bool or text.

        Raises:
            UsageError: not such a value, or out of range; names the option.
        """
        if self.kind == "flag":
            if text not in ("yes", "no"):
                raise UsageError(f"{self.name}={text!r}: yes or no")
            return text == "yes"
        if self.kind == "choice":
            if text not in self.choices:
                raise UsageError(f"{self.name}={text!r}: one of {', '.join(self.choices)}")
            return text
        if self.kind == "text":
            if not text:
                raise UsageError(f"{self.name} is empty")
            return text
        number = self._number(text)
        if (self.least is not None and number < self.least) or (self.most is not None and number > self.most):
            raise UsageError(f"{self.name}={text!r}: {self._range()}")
        return number

    def _number(self, text: str) -> int:
        if self.kind == "size":
            return size_bytes(text, self.name)
        if self.kind == "duration":
            return duration_ms(text, self.name)
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise UsageError(f"{self.name}={text!r} is not a whole number")
        return int(text)

    def _range(self) -> str:
        def show(number: int) -> str:
            if self.kind == "count":
                return f"{number:,}"
            return show_bytes(number) if self.kind == "size" else show_duration(number)

        ends = [f"at least {show(self.least)}"] if self.least is not None else []
        return " and ".join(ends + ([f"at most {show(self.most)}"] if self.most is not None else []))


TIMEOUT = Option("timeout", "duration", "10s", "how long one call may take", least=100, most=300_000)
"""For sinks that talk to a server: shorter than grace, or a stop cannot wait for the call under way."""
PASSWORD = Option("password", "secret", None, "password; better ${VARIABLE}, or password_file=FILE")


class Secret:
    """A password, or the file that holds it. Shows neither in `repr` nor in `str`."""

    __slots__ = ("_file", "_text", "in_the_open")

    def __init__(self, text: str = "", file: str | None = None, *, in_the_open: bool = False) -> None:
        """in_the_open: it stands in the URL itself, for everyone who sees that."""
        self._text = text
        self._file = file
        self.in_the_open = in_the_open

    def read(self) -> str:
        """The secret as it is now; the file's without its line end.

        Raises:
            SinkRefused: the file cannot be read.
        """
        if self._file is None:
            return self._text
        try:
            return Path(self._file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SinkRefused(f"cannot read the password from {self._file}: {why}") from None

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkUrl:
    """A sink's URL, taken apart. Made by read_sink_url()."""

    scheme: str
    place: str
    """What stands between the scheme and the options, percent-decoded, without user and password."""
    options: Mapping[str, Any] = field(repr=False)
    """Every option that the sink declares, with its value or default; of kind secret: a Secret or None."""
    others: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Options that the sink does not declare, where it takes such (to pass them on)."""
    username: str | None = None
    host: str = ""
    """Of a URL that goes on with //: the host, without brackets; empty if there is none."""
    port: int | None = None
    path: str = ""
    """Of a URL that goes on with //: what comes after the host, percent-decoded, with its first slash."""
    hosts: str = ""
    """Of a URL that goes on with //: HOST:PORT as written, perhaps several with commas."""
    shown: str = ""
    """The URL for logs and messages, without passwords."""

    @property
    def password(self) -> Secret | None:
        """Of the login in front of the host, or the option password."""
        secret: Secret | None = self.options.get("password")
        return secret

    def __str__(self) -> str:
        return self.shown


def scheme_of(url: object) -> str:
    """The scheme, in small letters.

    Raises:
        UsageError: there is none.
    """
    if not isinstance(url, str):
        raise UsageError(f"a sink is named by a URL such as jsonl:out.jsonl, not by a {type(url).__name__}")
    scheme, colon, _ = url.strip().partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,30}", scheme):
        raise UsageError(
            "a sink is named by a URL such as jsonl:out.jsonl: this one has no scheme before a colon"
        )
    return scheme.lower()


def read_sink_url(
    url: str,
    declared: Sequence[Option] = (),
    *,
    others: bool = False,
    environ: Mapping[str, str] | None = None,
) -> SinkUrl:
    """Take a sink's URL apart.

    Args:
        declared: the options of the sink. others: undeclared ones are passed on, not refused. environ: what ${NAME}
            in a password is looked up in.

    Raises:
        UsageError: it cannot be meant; says what is allowed, and shows no part that may be a password.
    """
    scheme = scheme_of(url)
    rest, _, query = url.strip().partition(":")[2].partition("?")
    reading = _Reading(scheme, declared, environ or {})
    given, more = reading.given(query, others)
    location = reading.location(rest) if rest.startswith("//") else {"place": unquote(rest)}
    login = location.pop("login", None)
    if login is not None and login[1] is not None:
        if "password" in given:
            raise reading.wrong("gives two passwords: one before the @, or one as option")
        if not any(option.kind == "secret" and option.name == "password" for option in declared):
            raise reading.wrong("has a password before the @, and this sink takes none")
        given["password"] = reading.secret(login[1], "password")
    options = reading.values(given)
    user = f"{quote(login[0], safe='')}@" if login is not None and login[0] else ""
    place = (
        f"//{user}{location['hosts']}{quote(location['path'])}" if "hosts" in location else location["place"]
    )
    named = [f"{name}={'***' if isinstance(given[name], Secret) else given[name]}" for name in given]
    named += [f"{name}=…" for name in more]
    return SinkUrl(
        scheme=scheme,
        options=options,
        others=more,
        username=(login[0] or None) if login is not None else None,
        shown=f"{scheme}:{place}" + (f"?{'&'.join(named)}" if named else ""),
        **location,
    )


class _Reading:
    """One URL being read."""

    def __init__(self, scheme: str, declared: Sequence[Option], environ: Mapping[str, str]) -> None:
        self._scheme = scheme
        self._declared = {option.name: option for option in declared}
        self._environ = environ

    def wrong(self, what: str) -> UsageError:
        return UsageError(f"the URL of sink {self._scheme}: {what}")

    def allowed(self) -> str:
        names = [
            f"{name} (or {name}_file)" if option.kind == "secret" else name
            for name, option in self._declared.items()
        ]
        return ", ".join(names) or "none"

    def given(self, query: str, others: bool) -> tuple[dict[str, Any], dict[str, str]]:
        """The options that were written: those declared as text or Secret, and the others."""
        declared: dict[str, Any] = {}
        more: dict[str, str] = {}
        for part in query.split("&"):
            name, equals, text = part.partition("=")
            if not part:
                continue
            # Half of a password with a ? in it may stand here: it is not shown.
            known = name in self._declared or name.removesuffix("_file") in self._declared
            if not _NAME.fullmatch(name) or ("@" in text and not known):
                raise self.wrong(
                    "has something behind the '?' that is no option; in a user or password, write / as %2F, ? as "
                    f"%3F, @ as %40 and & as %26. Options: {self.allowed()}"
                )
            if not equals:
                raise self.wrong(f"option {name} has no value: {name}=…")
            text, secret = unquote(text), self._declared.get(name.removesuffix("_file"))
            if name in declared or name in more:
                raise self.wrong(f"has {name} twice")
            if secret is not None and secret.kind == "secret":
                if secret.name in declared:
                    raise self.wrong(f"has both {secret.name} and {secret.name}_file: one of them")
                is_file = name != secret.name
                declared[secret.name] = Secret(file=text) if is_file else self.secret(text, name)
            elif name in self._declared:
                declared[name] = text
            elif others:
                more[name] = text
            else:
                raise self.wrong(f"there is no option {name!r}; there are: {self.allowed()}")
        return declared, more

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All declared options with their values, or defaults."""
        values: dict[str, Any] = {}
        for name, option in self._declared.items():
            text = given.get(name, option.default)
            if text is None and option.needed:
                raise self.wrong(f"{name}=… is missing: {option.help}")
            try:
                values[name] = text if text is None or isinstance(text, Secret) else option.value(text)
            except UsageError as error:
                raise self.wrong(str(error)) from None
        return values

    def location(self, rest: str) -> dict[str, Any]:
        """Login, host, port and path of what begins with //."""
        authority, slash, path = rest[2:].partition("/")
        if "@" in path:
            raise self.wrong("has an '@' behind a '/': in a user or password, write / as %2F and @ as %40")
        login, at, hosts = authority.rpartition("@")
        user, colon, password = login.partition(":")
        many = [self._host(part) for part in hosts.split(",")] if hosts else [("", None)]
        host, port = many[0]
        return {
            "place": unquote(f"//{hosts}{slash}{path}"),
            "hosts": hosts,
            "host": host,
            "port": port,
            "path": unquote(slash + path),
            "login": (unquote(user), unquote(password) if colon else None) if at else None,
        }

    def _host(self, text: str) -> tuple[str, int | None]:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]\s]*)(?::(\d{0,9}))?", text)
        if match is None:
            raise self.wrong("has something else where HOST:PORT belongs")
        port = int(match[2]) if match[2] else None
        if port is not None and not 1 <= port <= 65_535:
            raise self.wrong("names a port that is not 1 to 65535")
        return unquote(match[1]).strip("[]"), port

    def secret(self, text: str, name: str) -> Secret:
        """The secret, with each ${NAME} replaced by that variable of the environment."""
        for variable in _VARIABLE.findall(text):
            if variable not in self._environ:
                raise self.wrong(f"{name} names ${{{variable}}}, which the environment does not have")
        found = _VARIABLE.sub(lambda match: self._environ[match[1]], text)
        if not found.isprintable() and any("\ud800" <= character <= "\udfff" for character in found):
            raise self.wrong(f"{name} is not UTF-8")
        return Secret(found, in_the_open=bool(_VARIABLE.sub("", text)))
