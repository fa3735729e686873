"""Users in foreign keys: who can be stored, how they are shown, and the names of deleted staff."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import User


def known_user(user: object) -> User | None:
    """Return the user of a request if a row can refer to that user; ``None`` if not."""
    # The token user of an API may be authenticated without a row of AUTH_USER_MODEL, and a new user
    # with a UUID has a key before it has a row.
    if not isinstance(user, get_user_model()) or user._state.adding:
        return None
    return user if user.is_authenticated else None  # type: ignore[redundant-expr] # a host's model


def user_display(user: User) -> str:
    """
    Return the full name and the e-mail address of a user, as far as the user model has them.

    Without both, it is the text of the row: usually the username, which is random on many sites.
    """
    full_name = getattr(user, "get_full_name", str)
    email_field = getattr(user, "get_email_field_name", str)() or "email"
    name, email = (
        " ".join(str(text or "").split()) for text in (full_name(), getattr(user, email_field, ""))
    )
    if name and email and name != email:
        return f"{name} ({email})"
    return name or email or str(user)


def account_name(user: AbstractBaseUser | None) -> str:
    """Return the name to keep beside a foreign key to ``user``; empty without one."""
    return "" if user is None else str(user.get_username())[:150]


def account_display(field: str) -> Any:
    """
    Return a property: the account in the foreign key ``field``, or the name that was kept.

    Staff are shown by their username. If a signal has written the row, no name was kept, since the
    account is a customer's.
    """

    def display(row: Any) -> str:
        user, name = getattr(row, field), getattr(row, f"{field}_name")
        return str(user or name) if name or user is None else user_display(user)

    return property(display)
