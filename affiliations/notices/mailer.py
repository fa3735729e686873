"""One connection to the mail server for all e-mails of a run."""

from __future__ import annotations

from contextlib import suppress
from smtplib import SMTPServerDisconnected
from types import TracebackType
from typing import Any

from django.core import mail
from django.core.mail import EmailMessage
from django.core.validators import validate_email

#: The errors of a broken connection. Not ``OSError``, which includes refusals by the server.
_BROKEN = (SMTPServerDisconnected, ConnectionError, TimeoutError)
#: The reply of a server that closes the connection, such as after a number of e-mails (RFC 5321,
#: 3.8).
_CLOSING = 421
#: If the connection breaks at this number of e-mails in a row, the server counts as down.
_MAX_BROKEN = 3


class ServerDown(Exception):
    """The mail server cannot be reached."""


class Mailer:
    """
    Sends e-mails one after the other through the default mailer of the site.

    A connection that breaks, such as after as many e-mails as the server allows, is opened once
    more for the same e-mail.
    """

    def __init__(self) -> None:
        self._connection = _connection()
        self._broken = 0

    def __enter__(self) -> Mailer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def send(self, message: EmailMessage) -> None:
        """
        Send an e-mail.

        Raises:
            ServerDown: If the server cannot be reached.
            Exception: If this e-mail is refused.
        """
        for recipient in message.to:
            # Django refuses line breaks; this refuses several addresses as well.
            validate_email(recipient)
        error = self._try(message)
        # After a time-out the server may have accepted the e-mail after all.
        if error is not None and not isinstance(error, TimeoutError):
            error = self._try(message)
        if error is None:
            return
        self._broken += 1
        if self._broken == _MAX_BROKEN:
            raise ServerDown(type(error).__name__) from error
        raise error

    def _try(self, message: EmailMessage) -> Exception | None:
        """Send an e-mail, and return the error if the connection broke."""
        try:
            self._connection.open()
        except Exception as error:
            raise ServerDown(f"{type(error).__name__}: {error}") from error
        try:
            self._connection.send_messages([message])
        except Exception as error:
            if isinstance(error, _BROKEN) or getattr(error, "smtp_code", None) == _CLOSING:
                self._close()
                return error
            self._broken = 0
            raise
        self._broken = 0
        return None

    def _close(self) -> None:
        # An error at the end does not matter: the e-mails before it were accepted.
        with suppress(Exception):
            self._connection.close()


def _connection() -> Any:
    if hasattr(mail, "mailers"):  # Django 6.1
        return mail.mailers.default
    return mail.get_connection()
