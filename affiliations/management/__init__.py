"""Helpers that several commands use."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class ProgressCommand(BaseCommand):
    """A command that shows its progress in one line, if the output is a terminal."""

    def show(self, progress: str) -> None:
        if self.stdout.isatty():
            self.stdout.write(f"\r{progress}", ending="")
            self.stdout.flush()

    def end_line(self) -> None:
        if self.stdout.isatty():
            self.stdout.write()

    def sum(self, counts: Iterable[int], verb: str) -> int:
        total = 0
        for count in counts:
            total += count
            self.show(f"{total} {verb}")
        self.end_line()
        return total


def find_user(name: str) -> User:
    """
    Return the user with this name or primary key.

    Raises:
        CommandError: If no user or more than one user matches.
    """
    model = get_user_model()
    users = model._default_manager
    found = set(users.filter(**{model.USERNAME_FIELD: name}))
    with suppress(ValidationError):  # not a key of this model
        found |= set(users.filter(pk=model._meta.pk.to_python(name)))
    if not found:
        raise CommandError(f"User {name!r} does not exist.")
    if len(found) > 1:
        listed = " and ".join(f"{user.get_username()!r} ({user.pk})" for user in found)
        raise CommandError(
            f"{name!r} is the name of one user and the primary key of another: {listed}. "
            "Enter the value that matches only one of them."
        )
    return found.pop()
