"""
The fields of log records, for the formatters of the host, and messages that stay in their lines.

Text from outside, such as a reference or the error of a partner's server, could otherwise add a
line to a log that looks like one of this site, or control the terminal that shows it.
"""

from __future__ import annotations

import logging
import textwrap
import traceback


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

    A filter of the logger ``affiliations``, to which every module logs. A message without such
    characters keeps its arguments, by which some services group records.
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


logging.getLogger("affiliations").addFilter(keep_in_line)
