"""
The fields of log records, messages that stay in one line, and the console of a developer.

Text from outside, such as a reference or the error of a partner's server, could otherwise forge a
line of the log, or control the terminal that shows it.
"""

from __future__ import annotations

import logging
import sys
import textwrap
import traceback
from typing import Any

from django.conf import settings
from django.utils import translation
from django.utils.functional import Promise

logger = logging.getLogger("affiliations")


def fields(
    *,
    partner: int | None = None,
    conversion: int | None = None,
    callback: int | None = None,
    reason: str = "",
) -> dict[str, object]:
    """
    Return the ``extra`` of a log record: always the same four fields.

    The first three are primary keys, ``None`` if there is none. ``reason`` is a code of ``Reason``
    or of ``CallbackAttempt.Error``.
    """
    return {"partner": partner, "conversion": conversion, "callback": callback, "reason": reason}


def one_line(text: str) -> str:
    """Escape line breaks, control characters and those that change the direction of text."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == "\N{NO-BREAK SPACE}" else ascii(sign)[1:-1]
        for sign in text
    )


def keep_in_line(record: logging.LogRecord) -> bool:
    """
    Escape the message of a record, and indent its traceback.

    This is a filter of the logger ``affiliations``, to which every module logs. A message that
    needs no escapes keeps its arguments, by which some services group records.
    """
    try:
        message = record.getMessage()
    except Exception:
        return True  # An object of the host cannot be shown. Handlers report it.
    if (escaped := one_line(message)) != message:
        record.msg, record.args = escaped, ()
    if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
        # Formatters use the text that is there.
        lines = "".join(traceback.format_exception(*record.exc_info)).splitlines()
        record.exc_text = textwrap.indent("\n".join(map(one_line, lines)), "  ", bool)
    return True


logger.addFilter(keep_in_line)


class _Console(logging.Handler):
    """Writes to standard error as it is now, which a server or a test runner may replace."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)  # noqa: T201
        except Exception:
            self.handleError(record)


_console = _Console()
_console.setFormatter(logging.Formatter("affiliations: %(message)s"))


def is_told() -> bool:
    """Return whether ``tell()`` has an effect."""
    return bool(settings.DEBUG) or logger.isEnabledFor(logging.DEBUG)


def tell(message: str, *args: object, level: int = logging.DEBUG, **about: Any) -> None:
    """
    Log what happened to a click, a trigger or a callback; with ``DEBUG`` also on the console.

    Django's default ``LOGGING`` does not show such records. With ``DEBUG``, the line is printed if
    the host has not configured the logger ``affiliations``, and if no handler of the host gets the
    record. Test runners turn ``DEBUG`` off.

    Args:
        message: The message, in English. Arguments that are translated become English, too.
        args: Its arguments.
        level: The level of the record.
        about: The arguments of ``fields()``.
    """
    is_logged = logger.isEnabledFor(level)
    if not (is_logged or settings.DEBUG):
        return
    with translation.override(None):
        values = tuple(str(one) if isinstance(one, Promise) else one for one in args)
    extra = fields(**about)
    if is_logged:
        logger.log(level, message, *values, extra=extra, stacklevel=2)
    is_shown = is_logged and any(level >= handler.level for handler in logging.root.handlers)
    is_configured = logger.level or logger.handlers or logger.disabled or not logger.propagate
    if settings.DEBUG and not (is_shown or is_configured):
        record = logger.makeRecord(
            logger.name, level, __file__, 0, message, values, None, extra=extra
        )
        keep_in_line(record)
        _console.handle(record)
