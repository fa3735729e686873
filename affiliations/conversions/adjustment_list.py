"""
Read lists of new order amounts, such as from a spreadsheet, and work out what they change.

Nothing is written here. A list takes time linear in its length, and a fixed number of queries.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from affiliations.amounts import parse_typed
from affiliations.conversions import adjustments
from affiliations.conversions.adjustments import REJECT_INSTEAD, Sum
from affiliations.models import Conversion
from affiliations.models.conversion_queries import reference_key

#: The maximum number of lines of a list, and of characters of a line.
MAX_LINES, MAX_LENGTH = 1000, 600

_DELIMITERS = "\t;,"


@dataclass(frozen=True)
class Line:
    number: int
    text: str
    reference: str
    amount: Decimal
    currency: str


@dataclass(frozen=True)
class Mistake:
    number: int
    text: str
    #: The conversion that the mistake is about, if there is one.
    conversion: Conversion | None = None


@dataclass(frozen=True)
class Change:
    line: Line
    conversion: Conversion
    so_far: Sum
    change: Sum


@dataclass
class AdjustmentList:
    """What a list says, line by line."""

    changes: list[Change] = field(default_factory=list)
    #: Lines whose amount is the current one.
    unchanged: list[Line] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    #: The number of the line that is a heading, if there is one.
    heading: int | None = None


def read(text: str, reason: str, trigger: str = "") -> AdjustmentList:
    """
    Read a list with a reference and the new amount of an order in each line.

    Args:
        text: The lines. A comma, a semicolon or a tab comes between the values; the third one, a
            currency, may be left out. Empty lines are ignored, and so is a first line without a
            digit, as a heading.
        reason: The reason of the adjustments.
        trigger: The trigger of the conversions; empty for any trigger.
    """
    found = AdjustmentList()
    lines = list(_lines(text, found))
    conversions = _conversions(lines, trigger)
    for line in lines:
        by_trigger = conversions.get(line.reference, {})
        if len(by_trigger) == 1:
            [conversion] = by_trigger.values()
            _add(found, line, conversion, reason)
            continue
        message = _("“%(reference)s” is unknown: no conversion has this reference.")
        if by_trigger:
            message = _(
                "“%(reference)s” is the reference of several conversions: %(triggers)s. Choose the "
                "trigger below the list."
            )
        triggers = ", ".join(f"“{name}”" for name in sorted(by_trigger))
        names = {"reference": line.reference, "triggers": triggers}
        found.mistakes.append(Mistake(line.number, message % names))
    found.mistakes.sort(key=lambda mistake: mistake.number)
    return found


def _lines(text: str, found: AdjustmentList) -> Iterator[Line]:
    """Yield the valid lines, and note the mistakes of the others. Empty lines are left out."""
    numbers: dict[str, int] = {}
    is_first = True
    for number, typed in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not typed.strip(" \t;,"):
            continue
        if is_first and not any(character.isdigit() for character in typed):
            found.heading, is_first = number, False
            continue
        is_first = False
        values = _values(typed) if len(typed) <= MAX_LENGTH else []
        if len(values) not in (2, 3) or not values[0]:
            message = _("Enter a reference and an amount, with a comma, semicolon or tab between.")
            found.mistakes.append(Mistake(number, message))
            continue
        reference, amount_text, currency = [*values, ""][:3]
        earlier = numbers.setdefault(reference, number)
        amount = parse_typed(amount_text)
        message = ""
        if earlier != number:
            message = _("“%(reference)s” is already in line %(line)s.")
            message %= {"reference": reference, "line": earlier}
        elif amount.amount is None:
            message = f"“{amount_text}”: {_(amount.problem)}"
        elif not amount.amount:
            message = f"“{reference}”: {REJECT_INSTEAD}"
        if message or amount.amount is None:
            found.mistakes.append(Mistake(number, message))
        else:
            yield Line(number, typed.strip(), reference, amount.amount, currency.upper())


def _values(typed: str) -> list[str]:
    """Split a line. The amount may have a comma, and a value in quotation marks any delimiter."""
    delimiter = next((one for one in _DELIMITERS if one in typed), ",")
    [values] = csv.reader([typed], delimiter=delimiter, skipinitialspace=True)
    values = [value.strip() for value in values]
    while values and not values[-1]:  # Empty cells of a spreadsheet.
        values.pop()
    if delimiter == "," and len(values) > 2:
        currency = [values.pop()] if values[-1].isalpha() else []
        amount = ",".join(values[1:])
        # If blanks or quotation marks separate the parts, they are columns, not decimals.
        values = [values[0], amount, *currency] if amount in typed else []
    return values


def _conversions(lines: list[Line], trigger: str) -> dict[str, dict[str, Conversion]]:
    """Return the conversions by reference and trigger; a rejected one only if there is no other."""
    by_key = {reference_key(line.reference): line.reference for line in lines}
    rows = Conversion.objects.filter(
        reference__in={line.reference[:255] for line in lines}, is_test=False
    ).select_related("partner", "settlement")
    found: dict[str, dict[str, Conversion]] = {}
    # Of several rows, the last in this order stays.
    for row in sorted(rows.with_adjustments(), key=lambda row: (not row.released, row.pk)):
        # The column is cut, and collations ignore case.
        reference = by_key.get(row.reference_key or reference_key(row.reference))
        if reference is not None and trigger in ("", row.trigger):
            found.setdefault(reference, {})[row.trigger] = row
    return found


def _add(found: AdjustmentList, line: Line, conversion: Conversion, reason: str) -> None:
    """Add what a line changes, or its mistake."""
    so_far = adjustments.so_far(conversion)
    names = {
        "reference": line.reference,
        "currency": line.currency,
        "own": conversion.currency or "-",
    }
    message = ""
    if conversion.status == Conversion.Status.REJECTED:
        message = _("“%(reference)s” is rejected. Reopen the conversion first.")
    elif conversion.payout is None:
        message = _("“%(reference)s” has no payout. Open the conversion to change its amount.")
    elif conversion.amount is None:
        message = _("“%(reference)s” has no amount. Open the conversion to adjust its payout.")
    elif line.currency and line.currency != conversion.currency:
        message = _("“%(reference)s” is in %(own)s, not in %(currency)s.")
    elif line.amount == so_far.amount:
        found.unchanged.append(line)
        return
    elif conversion.is_in_two_currencies:
        message = _(
            "“%(reference)s” has a payout in another currency, calculated by this site. Open the "
            "conversion to adjust both."
        )
    if message:
        found.mistakes.append(Mistake(line.number, message % names, conversion))
        return
    change = adjustments.change_by_rule(conversion, line.amount, so_far)
    try:
        adjustments.check(conversion, so_far, change, reason)
    except ValidationError as error:
        text = f"“{line.reference}”: {' '.join(error.messages)}"
        found.mistakes.append(Mistake(line.number, text, conversion))
    else:
        found.changes.append(Change(line, conversion, so_far, change))
