"""
System checks of the host's settings and models.

``docs/reference/checks.rst`` is generated from the messages in the source, and explains them.

Triggers are not checked here: ``affiliations.registry`` stops the start-up at an unusable one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from zoneinfo import ZoneInfo

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import connections
from django.urls import URLResolver, get_resolver
from django.utils.module_loading import import_string

from affiliations import db
from affiliations.conf import Settings, import_function, settings, table, unknown_names
from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware

_MIDDLEWARE = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
_TLS_MIDDLEWARE = "tls.TLSRequestMiddleware"
_SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
_USERS = "django.contrib.auth.middleware.AuthenticationMiddleware"
#: Where the function of a setting is in the hint, if the default is ``None``.
_HOOKS = "shop.affiliates."
_DISPATCHERS = "affiliations.dispatchers."
TENANT_ENGINES = ("django_tenants.", "tenant_schemas.")
_TASKS_LINE = 'TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}'

Messages = Iterator[CheckMessage]


def _check(*, deploy: bool = False) -> Callable[[Callable[[], Messages]], Callable[..., Any]]:
    def decorate(find: Callable[[], Messages]) -> Callable[..., list[CheckMessage]]:
        def check(app_configs: object = None, **kwargs: object) -> list[CheckMessage]:
            return list(find())

        return checks.register("affiliations", deploy=deploy)(check)

    return decorate


@_check()
def check_middleware() -> Messages:
    """Check that the app's middleware is listed once, below the middleware that it needs."""
    if _TLS_MIDDLEWARE in django_settings.MIDDLEWARE:
        yield Error(
            f"MIDDLEWARE lists {_TLS_MIDDLEWARE!r}, which Django cannot run.",
            hint=f"Remove that line: {_MIDDLEWARE!r} binds the request for django-tls itself.",
            id="affiliations.E001",
        )
    own_positions = _positions(AffiliateVisitorsRegistrationMiddleware)
    if not own_positions:
        yield Error(
            "MIDDLEWARE does not list the middleware of affiliations: no visitor is registered "
            "and no trigger finds one.",
            hint=f"Add the line {_MIDDLEWARE!r}, below those of sessions and authentication.",
            id="affiliations.E002",
        )
        return
    if len(own_positions) > 1:
        yield Error(
            "MIDDLEWARE lists the middleware of affiliations more than once.",
            hint=f"Keep one line, such as {_MIDDLEWARE!r}.",
            id="affiliations.E003",
        )
    yield from _check_needed(own_positions[0])


def _check_needed(own_position: int) -> Messages:
    """Check that sessions and users come first. Their middleware may be a subclass of Django's."""
    sessions, users = _positions(import_string(_SESSIONS)), _positions(import_string(_USERS))
    if not sessions:
        yield checks.Warning(
            f"MIDDLEWARE does not list {_SESSIONS!r}: visitors are registered, but never "
            "recognised again.",
            hint=f"Add the line {_SESSIONS!r} above {_MIDDLEWARE!r}.",
            id="affiliations.W001",
        )
    elif sessions[0] > own_position:
        yield Error(
            f"MIDDLEWARE lists {_SESSIONS!r} below the middleware of affiliations: visitors are "
            "registered, but never recognised again.",
            hint=f"Move the line {_MIDDLEWARE!r} below it.",
            id="affiliations.E004",
        )
    if not users:
        yield checks.Warning(
            f"MIDDLEWARE does not list {_USERS!r}: the user of a visitor is not known.",
            hint=f"Add the line {_USERS!r} above {_MIDDLEWARE!r}.",
            id="affiliations.W002",
        )
    elif users[0] > own_position:
        yield Error(
            f"MIDDLEWARE lists {_USERS!r} below the middleware of affiliations: the user of a "
            "visitor is not known.",
            hint=f"Move the line {_MIDDLEWARE!r} below it.",
            id="affiliations.E005",
        )


def _positions(middleware: type) -> list[int]:
    """Return the positions in MIDDLEWARE of a class and its subclasses."""
    positions = []
    for position, path in enumerate(django_settings.MIDDLEWARE):
        try:
            found = import_string(path)
        except ImportError:
            continue  # Django raises the error when it loads the middleware.
        if isinstance(found, type) and issubclass(found, middleware):
            positions.append(position)
    return positions


@_check()
def check_names() -> Messages:
    """Check that the name of no setting is misspelt."""
    for name, meant in unknown_names():
        yield checks.Warning(
            f"{name} is not a setting of affiliations, so it has no effect.",
            hint=f"Did you mean {meant}?"
            if meant
            else "Remove it: docs/reference/settings.rst lists all.",
            id="affiliations.W013",
        )


@_check()
def check_staff_namespaces() -> Messages:
    """Check that no name of a staff page is misspelt. One that is not there may be optional."""
    if any(_check_values()) or not hasattr(django_settings, "ROOT_URLCONF"):
        return
    names = set(_url_names(get_resolver()))
    for name in settings.staff_namespaces:
        close = [] if name in names else get_close_matches(name, names, n=1, cutoff=0.75)
        if close and name not in (Settings.staff_namespaces.default or ()):
            yield checks.Warning(
                f"AFFILIATE_STAFF_NAMESPACES names {name!r}, which is neither a URL namespace nor "
                "the name of a URL.",
                hint=f"Did you mean {close[0]!r}?",
                id="affiliations.W015",
            )


def _url_names(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Yield the namespaces, and the names of URLs with their namespaces."""
    yield from (f"{prefix}{name}" for name in resolver.reverse_dict if isinstance(name, str))
    for namespace, (_path, nested) in resolver.namespace_dict.items():
        yield from (namespace, str(nested.app_name))
        yield from _url_names(nested, f"{prefix}{namespace}:")


@_check()
def check_settings() -> Messages:
    """Check each setting, and if all are valid, check that they fit together."""
    if wrong := list(_check_values()):
        yield from wrong
        return
    yield from _check_functions()
    yield from _check_parameters()
    yield from _check_lease()
    for name in ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "LANGUAGE_COOKIE_NAME"):
        if settings.cookie_name == getattr(django_settings, name):
            yield Error(
                f"AFFILIATE_COOKIE_NAME is {settings.cookie_name!r}, and so is {name}.",
                hint=f"Write, for example: {Settings.cookie_name.line}",
                id="affiliations.E013",
            )


def _check_values() -> Messages:
    for setting in table().values():
        if setting.is_valid is not None and not setting.is_valid(value := setting.raw()):
            yield Error(
                f"{setting.name} is {value!r}, but must be {setting.must_be}.",
                hint=f"Write, for example: {setting.line}",
                id="affiliations.E006",
            )


def _check_functions() -> Messages:
    for key, setting in table().items():
        if setting.convert is not import_function:
            continue
        path = setting.raw()
        try:
            function = import_function(path)
        except ImportError as error:
            problem = f"cannot be imported: {error}"
        else:
            if iscoroutinefunction(function):
                problem = "is async, but is called without await"
            elif function is None or callable(function):
                continue
            else:
                problem = "cannot be called"
        yield Error(
            f"{setting.name} is {path!r}, which {problem}.",
            hint=f'Write, for example: {setting.name} = "{setting.default or _HOOKS + key}"',
            id="affiliations.E007",
        )


def _check_parameters() -> Messages:
    names = [*settings.query_string_keys, settings.click_id_key, *settings.sub_id_keys]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Error(
            f"AFFILIATE_QUERY_STRING_KEY, AFFILIATE_CLICK_ID_KEY and AFFILIATE_SUB_ID_KEYS name "
            f"the parameter {name!r} more than once.",
            hint="Write a different name for each.",
            id="affiliations.E008",
        )


def _check_lease() -> Messages:
    # Imported here, since the worker imports requests, and a web server runs no checks.
    from affiliations.callbacks.worker import IN_HAND

    lease, deadline = settings.callback_lease.total_seconds(), settings.callback_deadline
    # A claimed callback may wait until the requests before it have ended.
    if lease <= IN_HAND * deadline:
        yield Error(
            f"AFFILIATE_CALLBACK_LEASE is {lease:g} seconds and AFFILIATE_CALLBACK_DEADLINE "
            f"{deadline:g}: a slow callback would be sent twice.",
            hint=f"Write a lease of more than {IN_HAND} deadlines, for example: "
            f"{Settings.callback_lease.line} and {Settings.callback_deadline.line}",
            id="affiliations.E009",
        )


@_check(deploy=True)
def check_production() -> Messages:
    """Check that visitors are remembered for as long as they can be credited."""
    if any(_check_values()):
        return
    window = settings.attribution_window
    session = timedelta(seconds=django_settings.SESSION_COOKIE_AGE)
    end = f"after {_days(session)}"
    if django_settings.SESSION_EXPIRE_AT_BROWSER_CLOSE:
        session, end = timedelta(0), "with the browser"
    if settings.cookie_name is None and window is not None and window > session:
        yield checks.Warning(
            f"AFFILIATE_ATTRIBUTION_WINDOW is {_days(window)}, but the session that remembers the "
            f"visitor ends {end}.",
            hint=f"Write, for example: {Settings.cookie_name.line}",
            id="affiliations.W006",
        )
    if django_settings.SESSION_COOKIE_SAMESITE == "Strict":
        yield checks.Warning(
            "SESSION_COOKIE_SAMESITE is 'Strict', so browsers do not send the session when a "
            "partner's link is followed: the visitor gets a new one, and is logged out.",
            hint='Write: SESSION_COOKIE_SAMESITE = "Lax"',
            id="affiliations.W007",
        )


def _days(duration: timedelta) -> str:
    days = duration / timedelta(days=1)
    return f"{days:g} day{'' if days == 1 else 's'}"


@_check()
def check_dispatcher() -> Messages:
    """Check that the dispatcher is installed, and that it sends in another process."""
    path = Settings.callback_dispatcher.raw()
    if path == f"{_DISPATCHERS}celery" and find_spec("celery") is None:
        yield _missing_package(path, "celery")
    if path != f"{_DISPATCHERS}tasks":
        return
    if find_spec("django.tasks") is None and find_spec("django_tasks") is None:
        yield _missing_package(path, "tasks")
    elif _is_task_backend("ImmediateBackend"):
        yield Error(
            "TASKS runs a task at once, in the process that enqueues it, and not in a worker.",
            hint=f"Write, for example: {_TASKS_LINE}, or set AFFILIATE_CALLBACK_DISPATCHER to "
            f"'{_DISPATCHERS}worker'.",
            id="affiliations.E011",
        )
    else:
        try:
            # As the dispatcher does at the first commit. The import looks up backend and queue.
            import_module("affiliations.background")
        except Exception as error:
            yield Error(
                f"TASKS does not accept the task of affiliations: {error}",
                hint='Give TASKS an alias "default" without QUEUES, or with "default" among them.',
                id="affiliations.E012",
            )


def database_alias() -> str | None:
    """Return the alias of the app's database; ``None`` if routers fail, which W016 tells."""
    with suppress(Exception):
        return connections[db.write_alias()].alias
    return None


@_check()
def check_databases() -> Messages:
    """Check what would lose or delay writes in the database of the app."""
    database = {} if (alias := database_alias()) is None else connections[alias].settings_dict
    engine, options = database.get("ENGINE", ""), database.get("OPTIONS", {})
    mode = str(options.get("transaction_mode") or "").upper()
    if engine.endswith(("sqlite3", "spatialite")) and mode not in ("IMMEDIATE", "EXCLUSIVE"):
        yield checks.Warning(
            "Two writers at once can end a request with “database is locked”: on SQLite a "
            "transaction that reads before it writes does not wait for its turn.",
            hint='Add to the database in DATABASES: "OPTIONS": {"transaction_mode": "IMMEDIATE"}',
            id="affiliations.W008",
        )
    if not django_settings.USE_TZ and _changes_clocks(django_settings.TIME_ZONE):
        yield checks.Warning(
            "USE_TZ is False and the clocks of TIME_ZONE change: in the hours of a change, "
            "callbacks are sent twice or an hour late.",
            hint="Write: USE_TZ = True",
            id="affiliations.W009",
        )
    if engine.startswith(TENANT_ENGINES) and _is_thread():
        yield checks.Warning(
            "The thread that sends callbacks looks for them in the public schema, not in those of "
            "the tenants.",
            hint=f"Set AFFILIATE_CALLBACK_DISPATCHER to '{_DISPATCHERS}worker' and run one for "
            "each schema: `manage.py tenant_command deliver_callbacks --schema=NAME --loop`.",
            id="affiliations.W010",
        )


@_check()
def check_fields() -> Messages:
    """Check that no form offers the rows that the app writes, which are as many as clicks."""
    from affiliations.models import Partner, Subscription

    for model in apps.get_models():
        if model._meta.app_label == "affiliations" or model._meta.proxy:
            continue
        for field in (*model._meta.local_fields, *model._meta.local_many_to_many):
            target = field.related_model
            # A string names a model that is not installed: Django has an error of its own for it.
            if not isinstance(target, type) or not field.editable:
                continue
            concrete: Any = target._meta.concrete_model
            if concrete._meta.app_label != "affiliations" or concrete in (Partner, Subscription):
                continue
            if getattr(field.remote_field, "parent_link", False):
                continue
            yield checks.Warning(
                f"{field} is editable: each form with it loads all rows of {target._meta.label}, "
                "and users can submit the row of another person.",
                hint=f"Write: {field.name} = models.{type(field).__name__}"
                f'("{target._meta.label}", …, editable=False). Then run makemigrations.',
                obj=field,
                id="affiliations.W011",
            )


def _changes_clocks(name: str | None) -> bool:
    year = datetime.now(timezone.utc).year
    zone = ZoneInfo(name) if name else None  # that of the machine
    months = (datetime(year, month, 1).astimezone(zone) for month in range(1, 13))
    return len({moment.utcoffset() for moment in months}) > 1


def _is_thread() -> bool:
    path: object = Settings.callback_dispatcher.raw()
    return path == f"{_DISPATCHERS}thread"


@_check(deploy=True)
def check_dispatcher_in_production() -> Messages:
    path = Settings.callback_dispatcher.raw()
    if _is_thread():
        yield checks.Warning(
            "Callbacks are sent by a thread of each web server process: retries wait while no "
            "process runs.",
            hint=f"Set AFFILIATE_CALLBACK_DISPATCHER to '{_DISPATCHERS}worker' and run "
            "`manage.py deliver_callbacks --loop` under a supervisor.",
            id="affiliations.W003",
        )
    if Settings.callback_allowed_networks.raw():
        yield checks.Warning(
            "AFFILIATE_CALLBACK_ALLOWED_NETWORKS is not empty: a callback URL can reach servers in "
            "these networks.",
            hint="Remove that line. It is meant for development.",
            id="affiliations.W004",
        )
    if path == f"{_DISPATCHERS}tasks" and _is_task_backend("DummyBackend"):
        yield checks.Warning(
            "TASKS keeps tasks and never runs them: callbacks wait for deliver_callbacks.",
            hint=f"Write, for example: {_TASKS_LINE}",
            id="affiliations.W005",
        )


def _is_task_backend(name: str) -> bool:
    """Tell whether the default backend of Django's tasks is the class of this name."""
    tasks = getattr(django_settings, "TASKS", None)
    if not tasks:  # Django 5.2 has no TASKS, and django-tasks has its own default.
        return name == "ImmediateBackend"
    return str(tasks.get("default", {}).get("BACKEND", "")).endswith(f".{name}")


def _missing_package(path: str, extra: str) -> CheckMessage:
    return Error(
        f"AFFILIATE_CALLBACK_DISPATCHER is {path!r}, but its package is not installed.",
        hint=f"Run: pip install 'django-affiliate-tracking[{extra}]'",
        id="affiliations.E010",
    )
