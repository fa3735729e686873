"""The screening of new conversions: which of them need review before they are paid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_noop

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

    from affiliations.models import Visitor

# Stored in English, shown in the reader's language.
OWN_ACCOUNT = gettext_noop("The buyer is the partner.")
OWN_VISITOR = gettext_noop("The visitor is the partner.")
FAILED = gettext_noop("The automatic check failed.")


def own_account(visitor: Visitor, user: AbstractBaseUser | None, instance: object) -> str | None:
    """
    Return a reason for review if the buyer or the visitor is one of the partner's own accounts.

    This is the default of ``AFFILIATE_SCREEN``. Your own function takes the same arguments and
    returns the same. If it raises an exception, the conversion needs review as well.

    Args:
        visitor: The visitor who is about to be credited.
        user: The buyer; ``None`` for a guest's order.
        instance: The object that completed the trigger, if any.

    Returns:
        Why the conversion needs review, and so stays pending; ``None`` if it does not.
    """
    accounts = {} if visitor.user_id is None else {visitor.user_id: OWN_VISITOR}
    if user is not None:
        accounts[user.pk] = OWN_ACCOUNT
    if not accounts:
        return None
    # The partner may click with one account and buy with another, or for another person.
    own = visitor.partner.users.filter(pk__in=accounts)
    found = set(own.values_list("pk", flat=True))
    return next((text for key, text in reversed(accounts.items()) if key in found), None)
