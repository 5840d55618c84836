"""Session: what every verb is given: where the server is, and how results are shown."""

import logging
import sys
from typing import TYPE_CHECKING

import click

from console.cli.exit_codes import NoConsentError
from console.output import Output
from console.settings import Settings, settings_from

if TYPE_CHECKING:
    from pipeline.server.connect import Connector, Link


class Session:
    """One run of one verb. Connects when first asked to, and closes what it opened."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or settings_from()
        self.url: str | None = self.settings.worker_url
        self.url_on_command_line = False
        self.out = Output(color=self.settings.color)
        self._connector: Connector | None = None
        self._links: list[Link] = []

    def connector(self) -> "Connector":
        """The connector to the server of --url, else of the environment.

        Raises:
            NoServerError: neither names one. UsageError: the URL is none.
        """
        if self._connector is None:
            from pipeline.server.connect import Connector

            self._connector = Connector(self.url, name="millstream-cli")
        return self._connector

    def link(self, purpose: str) -> "Link":
        """A connection, closed when the verb ends."""
        link = self.connector().link(purpose)
        self._links.append(link)
        return link

    def log_to_stderr(self) -> None:
        """Show what Millstream says about its own work: for verbs that go on. Such a one is listed for as long."""
        from pipeline.observe.log import log_to_stderr
        from pipeline.server.locate import locate

        if self.url_on_command_line and locate(self.url).password:
            self.out.warn(
                "whoever lists processes sees the password in --url: give the URL as MILLSTREAM_URL, or name a file "
                "with password_file="
            )

        log_to_stderr(
            logging.WARNING if self.out.quiet else logging.DEBUG if self.out.verbose else logging.INFO
        )

    def consent(self, question: str, execute: bool) -> None:
        """Go on if --execute was given or the person at the terminal says yes; the plan has been shown before.

        Raises:
            NoConsentError: neither; nothing was changed.
        """
        if execute:
            return
        if not sys.stdin.isatty() or not sys.stderr.isatty():
            raise NoConsentError("nothing was changed: without a terminal to ask, this needs --execute")
        if not click.confirm(question, default=False, err=True):
            raise NoConsentError("nothing was changed")

    def close(self) -> None:
        """Close the connections; an embedded server without another user stops."""
        for link in self._links:
            link.close()
        if self._connector is not None:
            self._connector.close()
