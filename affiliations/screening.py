"""
Which conversions somebody should look at before they are paid for.

``AFFILIATE_SCREEN`` names one function: of the visitor, the buyer and what was bought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_noop

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from affiliations.models import Visitor

# Kept in English, shown in the reader's language.
OWN_ACCOUNT = gettext_noop("The partner bought it themselves.")
FAILED = gettext_noop("It could not be screened.")


def own_account(visitor: Visitor, user: User | None, instance: object) -> str | None:
    """
    Return a reason where the buyer is the partner, by one of their own accounts.

    Where the buyer is not known, such as at a guest's order, the visitor's account is asked of.

    The default. A rule of the host's gets the same: the visitor who is about to be credited, the
    buyer, if one is known, and the instance that the trigger was completed by, if there is one. It
    returns why somebody should look at the conversion, which is then pending, or ``None``. Where it
    raises, the conversion is pending as well.
    """
    account = visitor.user_id if user is None else user.pk
    if account is not None and visitor.partner.users.filter(pk=account).exists():
        return OWN_ACCOUNT
    return None
