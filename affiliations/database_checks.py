"""
System checks of routers and charsets.

Rows that refer to each other need one database, and texts of links can have any character.
``docs/reference/checks.rst`` is generated from the messages, and explains them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.checks import CheckMessage
from django.db import connections, router
from django.db.models import Model

from affiliations import db
from affiliations.checks import TENANT_ENGINES, database_alias
from affiliations.models import Visitor

_LOST = "Texts of links with other characters, such as emoji, are not stored"
_ALLOW_RELATION = "def allow_relation(self, obj1, obj2, **hints): return True"


@checks.register("affiliations")
def check_routers(app_configs: object = None, **kwargs: object) -> list[CheckMessage]:
    """Check that the routers of the host keep together the rows that refer to each other."""
    try:
        return list(_scattered()) or [*_refused(), *_not_created()]
    except Exception as error:  # A router may raise anything.
        return [
            checks.Warning(
                "DATABASE_ROUTERS fail outside of a request: "
                f"{type(error).__name__}: {str(error).rstrip('.')}. Databases are not checked.",
                hint="Let each method of your routers return an alias of DATABASES, or None: "
                "commands and the thread that sends callbacks ask them as well.",
                id="affiliations.W016",
            )
        ]


def _scattered() -> Iterator[CheckMessage]:
    home = db.write_alias()
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for model, target in _relations():
        alias, other = router.db_for_write(model), router.db_for_write(target)
        if _database(alias) != _database(other):
            is_whole = alias == home and model._meta.app_label == "affiliations"
            name = "the tables of affiliations" if is_whole else model._meta.label
            found[name, alias, other].append(target._meta.label)
    for (name, alias, other), targets in found.items():
        yield checks.Error(
            f"DATABASE_ROUTERS put {name} into {alias!r}, but {', '.join(dict.fromkeys(targets))} "
            f"into {other!r}: a row cannot refer to a row in another database.",
            hint="Let db_for_read(), db_for_write() and allow_migrate() of your routers name one "
            "database for all of them, then run migrate on it.",
            id="affiliations.E014",
        )


def _relations() -> Iterator[tuple[type[Model], type[Model]]]:
    """Yield the models of the app, and the Admin's log, with the models that they need."""
    models = [*apps.get_app_config("affiliations").get_models()]
    for model in models:
        if not model._meta.proxy:
            yield model, Visitor  # Even without a reference: both are written in one transaction.
    if apps.is_installed("django.contrib.admin"):
        # Each page of the Admin that changes something writes it, and the index shows it.
        models.append(apps.get_model("admin", "LogEntry"))
    for model in models:
        for field in (*model._meta.local_fields, *model._meta.local_many_to_many):
            if isinstance(field.related_model, type):
                yield model, field.related_model


def _database(alias: str) -> object:
    """Return a value that is equal for aliases of one database, such as with two search paths."""
    database = connections[alias].settings_dict
    if connections[alias].vendor == "sqlite":
        return alias
    return tuple(str(database.get(key, "")) for key in ("HOST", "PORT", "NAME"))


def _refused() -> Iterator[CheckMessage]:
    """Yield an error if the routers do not allow a relation between a replica and the primary."""
    written = Visitor()
    written._state.db = db.write_alias()
    for model in (Visitor, get_user_model()):
        read = model()
        read._state.db = router.db_for_read(model)
        try:
            is_allowed = router.allow_relation(read, written)
        except Exception:  # The router asks for values, and these rows have none.
            return
        if not is_allowed:
            yield checks.Error(
                f"DATABASE_ROUTERS read {model._meta.label} from {read._state.db!r} and write to "
                f"{written._state.db!r}, but do not allow relations between rows of the two: no "
                "visitor is registered, and pages of the Admin fail.",
                hint=f"Add to your router: {_ALLOW_RELATION}",
                id="affiliations.E015",
            )
            return


def _not_created() -> Iterator[CheckMessage]:
    alias = db.write_alias()
    if connections[alias].settings_dict["ENGINE"].startswith(TENANT_ENGINES):
        return  # The tables are those of a tenant, and a check has none.
    names = [
        model._meta.label
        for model in apps.get_app_config("affiliations").get_models()
        if model._meta.can_migrate(alias) and not router.allow_migrate_model(alias, model)
    ]
    if names:
        yield checks.Warning(
            f"DATABASE_ROUTERS write to {alias!r}, but migrate does not create these tables there: "
            f"{', '.join(names)}.",
            hint="Let db_for_read() and db_for_write() name the database for which allow_migrate() "
            "returns True, and run migrate on it.",
            id="affiliations.W014",
        )


# Not by the name of the app: since Django 6.1, "check --tag" passes all databases.
@checks.register(checks.Tags.database)
def check_charsets(
    app_configs: object = None, databases: Sequence[str] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check that connection and tables on MySQL and MariaDB can hold all characters."""
    # Django passes the databases that a check may query.
    alias = database_alias()
    return list(_charsets(alias)) if alias is not None and alias in (databases or ()) else []


def _charsets(alias: str) -> Iterator[CheckMessage]:
    if (charset := db.connection_charset(alias)) != "utf8mb4":
        yield checks.Warning(
            f"The charset of the connection to the database is {charset}. {_LOST}.",
            hint='Write in DATABASES: "OPTIONS": {"charset": "utf8mb4"}',
            id="affiliations.W012",
        )
    narrow: dict[tuple[str, str], list[str]] = {}
    for table, column, charset in db.narrow_columns(alias):
        narrow.setdefault((table, charset), []).append(column)
    if narrow:
        listed = "; ".join(
            f"{table} is {charset} ({', '.join(columns)})"
            for (table, charset), columns in narrow.items()
        )
        name = connections[alias].settings_dict["NAME"]
        statements = [
            f"ALTER DATABASE `{name}` CHARACTER SET utf8mb4;",
            *(
                f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4;"
                for table in dict.fromkeys(table for table, _charset in narrow)
            ),
        ]
        yield checks.Warning(
            f"Columns of the app are not utf8mb4: {listed}. {_LOST}.",
            hint=f"Run, and then restart the site: {' '.join(statements)}",
            id="affiliations.W012",
        )
