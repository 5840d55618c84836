"""Address: which server to use, read from a URL that code or the environment gives.

Pure but for reading two environment variables and looking whether the certificate files named are there. A password
is percent-decoded, kept out of `repr` and of every message.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from pipeline.errors import NoServerError, UsageError

Kind = Literal["tcp", "unix", "embedded", "sentinel"]

FORMS = (
    "redis://[USER:PASSWORD@]HOST:PORT/DB, rediss://… (TLS), unix://PATH, redis+sentinel://HOST:PORT,…/SERVICE/DB "
    "or embedded://FOLDER"
)
_WAYS = (
    "no server address: give a url in code or with --url, or set MILLSTREAM_URL or REDIS_URL; "
    "for a server of your own without installing one, use embedded://FOLDER"
)
_PORT, _SENTINEL_PORT = 6379, 26379
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
# What switches verification off in other clients. Kept on, they are harmless; off, only code may say so: a URL is
# copied about, and one that disables TLS verification would disable it wherever it lands.
_CHECKS = {"ssl_cert_reqs": ("required",), "ssl_check_hostname": ("true", "yes", "1")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server is and how to log in. Made by locate(); what does not apply to its kind is empty."""

    kind: Kind
    host: str = ""
    """Host of the server, the first of `seeds`; empty unless kind is tcp."""
    port: int = 0
    path: str = ""
    """Path of the unix socket."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    """A file that holds the password; read for each connection, so that a password may be changed while we run."""
    tls: bool = False
    ca_file: str | None = None
    """Certificates to trust (PEM); None means those of the system."""
    cert_file: str | None = None
    key_file: str | None = None
    insecure_tls: bool = False
    """The server's certificate is not verified. Only code can ask for this."""
    seeds: tuple[tuple[str, int], ...] = ()
    """All (host, port) given; more than one are the nodes of a cluster."""
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    """The name under which the sentinels know the primary."""
    folder: str = ""
    """Data folder of the embedded server, absolute."""
    binary: str | None = None
    """Server program of the embedded server; None means the installed one."""
    fsync: Literal["always", "everysec"] = "everysec"
    """When the embedded server writes through to the disk."""

    @property
    def shown(self) -> str:
        """The address as a URL without its password."""
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        if self.kind == "embedded":
            return f"embedded://{self.folder}"
        if self.kind == "unix":
            return f"unix://{user}{self.path}" + (f"?db={self.db}" if self.db else "")
        scheme = "rediss" if self.tls else "redis"
        if self.kind == "sentinel":
            return f"{scheme}+sentinel://{user}{_joined(self.sentinels)}/{self.service}/{self.db}"
        return f"{scheme}://{user}{_joined(self.seeds or ((self.host, self.port),))}/{self.db}"

    def with_host(self, host: str, port: int) -> "Address":
        """The same login at one host: the primary that the sentinels named, or a node of the cluster."""
        return replace(
            self, kind="tcp", host=host, port=port, seeds=((host, port),), sentinels=(), service=""
        )

    def __str__(self) -> str:
        return self.shown


def locate(
    url: str | None = None, environ: Mapping[str, str] | None = None, *, insecure_tls: bool = False
) -> Address:
    """The address that code gives, else MILLSTREAM_URL, else REDIS_URL.

    Args:
        insecure_tls: do not verify the server's certificate.

    Raises:
        NoServerError: no address anywhere. UsageError: the URL cannot be accepted; says what is.
    """
    environ = os.environ if environ is None else environ
    if url is not None:
        return _Reading(url, "url", insecure_tls).address()
    for variable in ("MILLSTREAM_URL", "REDIS_URL"):
        if environ.get(variable, "").strip():
            return _Reading(environ[variable], variable, insecure_tls).address()
    raise NoServerError(_WAYS)


def redact(text: str) -> str:
    """The text without what may be a password: all before an `@`, and values named password."""
    text = re.sub(r"([\w+.-]+://)?[^\s'\"]+@", lambda match: f"{match[1] or ''}***@", text)
    return re.sub(r"(?i)(pass(?:word)?=)[^&\s'\"]+", r"\1***", text)


class _Reading:
    """One URL being read. Messages name who gave it and never show a part that could be a password."""

    def __init__(self, url: object, said_by: str, insecure_tls: bool) -> None:
        self.said_by, self.insecure_tls = said_by, insecure_tls
        if not isinstance(url, str):
            raise self.wrong(f"is {type(url).__name__}, not text")
        scheme, separator, rest = url.strip().partition("://")
        self.scheme = scheme.lower()
        if not separator:
            raise self.wrong("has no scheme such as redis://" if url.strip() else "is empty")
        try:
            _ = self.scheme == "embedded" or url.encode()  # a folder may be called anything
        except UnicodeEncodeError:
            raise self.wrong("holds bytes that are not UTF-8") from None
        if "#" in rest:
            raise self.wrong("holds a '#': write it as %23")
        rest, _, query = rest.partition("?")
        self.query = query
        self.options = dict(self._option(part) for part in query.split("&") if part)
        slash = rest.find("/")
        self.path = "" if slash < 0 else rest[slash:]
        login, self.has_login, self.place = (rest if slash < 0 else rest[:slash]).rpartition("@")
        username, _, password = login.partition(":")
        self.username, self.password = unquote(username) or None, unquote(password) or None

    def address(self) -> Address:
        """The address, by its scheme."""
        if self.scheme in ("redis", "rediss"):
            return self._tcp()
        if self.scheme in ("redis+sentinel", "rediss+sentinel"):
            return self._sentinel()
        if self.scheme == "unix":
            return self._unix()
        if self.scheme == "embedded":
            return self._embedded()
        raise self.wrong(f"begins with {redact(self.scheme)[:20]!r}")

    def wrong(self, what: str) -> UsageError:
        """The error that says what is wrong and what is allowed."""
        return UsageError(f"{self.said_by} {what}; an address is {FORMS}")

    def _tcp(self) -> Address:
        seeds = self._hosts(_PORT)
        db = self._db(self.path[1:])
        if len(seeds) > 1 and db:
            raise self.wrong(f"names several hosts and database {db}: a cluster has database 0 only")
        host, port = seeds[0]
        return self._with_tls(Address(kind="tcp", host=host, port=port, seeds=seeds, db=db))

    def _sentinel(self) -> Address:
        sentinels = self._hosts(_SENTINEL_PORT)
        service, _, db = self.path[1:].partition("/")
        if not service:
            raise self.wrong("names no service after the sentinels")
        return self._with_tls(
            Address(kind="sentinel", sentinels=sentinels, service=unquote(service), db=self._db(db))
        )

    def _unix(self) -> Address:
        if self.place or self.path in ("", "/"):
            raise self.wrong("needs an absolute path, as in unix:///run/redis/redis.sock")
        db = self._db("")
        username = self.options.pop("username", self.username)
        password = self.options.pop("password", self.password)
        file = self._password_file(password)
        self._nothing_left("db", "username", "password", "password_file")
        return Address(
            kind="unix",
            path=unquote(self.path),
            db=db,
            username=username or None,
            password=password or None,
            password_file=file,
        )

    def _embedded(self) -> Address:
        folder = unquote(self.place + self.path)
        if self.has_login:
            raise self.wrong(
                "has a user or password: the embedded server is protected by its folder's rights"
            )
        if not folder:
            raise self.wrong("names no folder")
        fsync, binary = self.options.pop("fsync", "everysec"), self.options.pop("server", None)
        self._nothing_left("fsync", "server")
        if fsync not in ("always", "everysec"):
            raise self.wrong(f"says fsync={fsync!r}, which is always or everysec")
        return Address(
            kind="embedded",
            folder=os.path.abspath(os.path.expanduser(folder)),
            binary=binary,
            fsync="always" if fsync == "always" else "everysec",
        )

    def _hosts(self, default_port: int) -> tuple[tuple[str, int], ...]:
        # `redis://:pass/word@host` puts half of the password where the port belongs, so no part is shown.
        if "@" in self.path + self.query:
            raise self.wrong(
                "has an '@' behind a '/' or '?': in a user or password, write / as %2F, ? as %3F and @ as %40"
            )
        hosts = []
        for part in self.place.split(","):
            match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]\s]*)(?::(\d{0,9}))?", part)
            if match is None:
                raise self.wrong("has something else where HOST:PORT belongs")
            port = int(match[2] or default_port)
            if not 1 <= port <= 65_535:
                raise self.wrong("names a port that is not 1 to 65535")
            hosts.append((unquote(match[1]).strip("[]") or "localhost", port))
        return tuple(hosts)

    def _db(self, in_path: str) -> int:
        db = in_path or self.options.pop("db", "0")
        if not re.fullmatch(r"[0-9]{1,5}", db):
            raise self.wrong(f"names database {db!r}, which is not a number")
        return int(db)

    def _with_tls(self, address: Address) -> Address:
        tls = self.scheme.startswith("rediss")
        given = [option for option in self.options if option.startswith("ssl_")]
        if given and not tls:
            raise self.wrong(
                f"sets {given[0]} without TLS: write {self.scheme.replace('redis', 'rediss')}://"
            )
        for option, harmless in _CHECKS.items():
            value = self.options.pop(option, None)
            if value is not None and value.lower() not in harmless and not self.insecure_tls:
                raise self.wrong(
                    f"switches off the check of the server's certificate ({option}): name its authority with "
                    "ssl_ca_certs=FILE, or give insecure_tls=True in code"
                )
        files = [self.options.pop(option, None) for option in _FILES]
        for option, file in zip(_FILES, files, strict=True):
            if file is not None and not Path(file).is_file():
                raise self.wrong(f"sets {option}={file!r}, which is not a file")
        password_file = self._password_file(self.password)
        self._nothing_left("db", "password_file", *(_FILES if tls else ()))
        return replace(
            address,
            username=self.username,
            password=self.password,
            password_file=password_file,
            tls=tls,
            insecure_tls=tls and self.insecure_tls,
            ca_file=files[0],
            cert_file=files[1],
            key_file=files[2],
        )

    def _password_file(self, password: str | None) -> str | None:
        file = self.options.pop("password_file", None)
        if file is None:
            return None
        if password:
            raise self.wrong("gives a password and password_file: one of them")
        if not Path(file).is_file():
            raise self.wrong(f"sets password_file={file!r}, which is not a file")
        return os.path.abspath(file)

    def _option(self, part: str) -> tuple[str, str]:
        name, _, value = part.partition("=")
        return name.lower(), unquote(value)

    def _nothing_left(self, *allowed: str) -> None:
        for option in self.options:
            raise self.wrong(f"has the option {redact(option)[:40]!r}; allowed are {', '.join(allowed)}")


def _joined(hosts: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
