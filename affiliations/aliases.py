"""Find the placeholder of ours that a name means, such as the name of another system's macro."""

from __future__ import annotations

from difflib import get_close_matches

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from affiliations import placeholders
from affiliations.placeholders import joined

#: The longest text that is compared with our names.
MAX_NAME = 40

#: Names that mean different things: a transaction is a click in some systems and an order in
#: others, and a revenue is the order's or the partner's.
AMBIGUOUS = {
    **dict.fromkeys(
        ("transactionid", "transaction", "txid", "tid"),
        gettext_lazy("Use {click_id} for the click or {reference} for the order."),
    ),
    **dict.fromkeys(
        ("revenue", "sum", "value"),
        gettext_lazy("Use {payout} for the partner’s payout or {amount} for the order."),
    ),
}


def meant(name: str) -> str | None:
    """Return our placeholder for a name of another system, or for a similar one."""
    text = joined(name)
    if len(text) > MAX_NAME or text in AMBIGUOUS:
        return None
    for placeholder in placeholders.PLACEHOLDERS:
        if text in placeholder.all_names:
            return placeholder.name
    ours = {joined(known): known for known in placeholders.NAMES}
    # A shorter text would resemble a name by chance.
    matches = get_close_matches(text, ours, n=1, cutoff=0.8) if len(text) > 2 else []
    return ours[matches[0]] if matches else None


def did_you_mean(name: str | None) -> str:
    return "" if name is None else _("Did you mean {%(name)s}?") % {"name": name}


def is_name_of_ours(text: str) -> bool:
    """Tell whether a text is one of our names that is not also an ordinary word."""
    return joined(text) in {joined(name) for name in placeholders.NAMES if not name.isalpha()}
