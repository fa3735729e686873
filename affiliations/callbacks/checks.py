"""
System checks of who sends the callbacks.

Each id is explained in ``docs/checks.rst``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error

_DISPATCHERS = "affiliations.callbacks.dispatchers."


def check_dispatcher(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that somebody sends what the dispatcher is given, and does so elsewhere."""
    path = getattr(django_settings, "AFFILIATE_CALLBACK_DISPATCHER", _DISPATCHERS + "thread")
    messages: list[CheckMessage] = []
    if path == f"{_DISPATCHERS}celery" and find_spec("celery") is None:
        messages.append(_missing_package(path, "celery"))
    if path == f"{_DISPATCHERS}tasks":
        if find_spec("django.tasks") is None and find_spec("django_tasks") is None:
            messages.append(_missing_package(path, "tasks"))
        elif _tasks_are("ImmediateBackend"):
            messages.append(
                Error(
                    "TASKS runs a task at once, where it is enqueued, and not in a worker.",
                    hint="Write, for example: "
                    'TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}, or set '
                    f"AFFILIATE_CALLBACK_DISPATCHER to '{_DISPATCHERS}worker'.",
                    id="affiliations.E011",
                )
            )
        else:
            messages.extend(_check_task())
    return messages


def check_production(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn, before a deployment, of what is meant for trying it out."""
    messages: list[CheckMessage] = []
    path = getattr(django_settings, "AFFILIATE_CALLBACK_DISPATCHER", _DISPATCHERS + "thread")
    if path == f"{_DISPATCHERS}thread":
        messages.append(
            checks.Warning(
                "Callbacks are sent by a thread of each web server process: retries wait while "
                "none runs.",
                hint=f"Set AFFILIATE_CALLBACK_DISPATCHER to '{_DISPATCHERS}worker' and run "
                "`manage.py deliver_callbacks --loop` under a supervisor.",
                id="affiliations.W003",
            )
        )
    if getattr(django_settings, "AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES", False) is True:
        messages.append(
            checks.Warning(
                "AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES is True: a callback URL can reach "
                "inside this site's network.",
                hint="Remove that line; it is for a partner on the developer's machine.",
                id="affiliations.W004",
            )
        )
    if path == f"{_DISPATCHERS}tasks" and _tasks_are("DummyBackend"):
        messages.append(
            checks.Warning(
                "TASKS keeps a task and never runs it: callbacks wait for the sweep.",
                hint="Write, for example: "
                'TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}',
                id="affiliations.W005",
            )
        )
    return messages


def _tasks_are(backend: str) -> bool:
    """Whether the default backend of Django's tasks is this one of Django's own."""
    tasks = getattr(django_settings, "TASKS", None)
    if not tasks:  # Django 5.2 has no TASKS, and django-tasks its own default
        return backend == "ImmediateBackend"
    path = tasks.get("default", {}).get("BACKEND", "")
    return str(path).endswith(f".{backend}")


def _check_task() -> Iterator[CheckMessage]:
    try:
        # As the dispatcher does, at the first commit: a task looks up its backend and its queue.
        import_module("affiliations.callbacks.background")
    except Exception as error:
        yield Error(
            f"TASKS does not take the task of affiliations: {error}",
            hint='It needs an alias "default" whose QUEUES are not set or hold "default".',
            id="affiliations.E012",
        )


def _missing_package(path: str, extra: str) -> CheckMessage:
    return Error(
        f"AFFILIATE_CALLBACK_DISPATCHER is {path!r}, but its package is not installed.",
        hint=f"Run: pip install 'django-affiliate-tracking[{extra}]'",
        id="affiliations.E010",
    )
