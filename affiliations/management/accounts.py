"""Whom a command line means."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def account(named: str) -> User:
    """
    Return the user of this name or key.

    ``CommandError`` where there is none, and where it is the name of one and the key of another.
    """
    model = get_user_model()
    users = model._default_manager
    found = set(users.filter(**{model.USERNAME_FIELD: named}))
    with suppress(ValidationError):  # no key of this model
        found |= set(users.filter(pk=model._meta.pk.to_python(named)))
    if not found:
        raise CommandError(f"There is no user {named!r}.")
    if len(found) > 1:
        listed = " and ".join(f"{user.get_username()!r} ({user.pk})" for user in found)
        raise CommandError(f"{named!r} could be {listed}: name them by the other of the two.")
    return found.pop()
