from __future__ import annotations

import ast
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections

import affiliations
from affiliations.database_checks import check_routers
from tests.routers import PlacesRouter, ReplicaRouter

USERS = django_settings.AUTH_USER_MODEL
USERS_APP = USERS.partition(".")[0].lower()


class ReplicaOnlyRouter:
    """Read from a replica, and forget that rows of the two may refer to each other."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "other"


def found(settings: Any, *routers: object) -> list[tuple[str, str]]:
    settings.DATABASE_ROUTERS = list(routers)
    return [(message.id.removeprefix("affiliations."), message.msg) for message in check_routers()]


def test_the_settings_of_the_tests_pass() -> None:
    assert check_routers() == []


@pytest.mark.parametrize(
    "places",
    [
        {"sessions": "other"},
        # The orders: a trigger refers to no row of theirs.
        {"testapp": "other"},
        # All that refers to each other in a database of its own.
        dict.fromkeys(["affiliations", "auth", USERS_APP, "admin", "contenttypes"], "other"),
    ],
)
def test_what_refers_to_each_other_may_be_in_any_database(
    settings: Any, places: dict[str, str]
) -> None:
    assert found(settings, PlacesRouter(places)) == []


@pytest.mark.parametrize(
    ("places", "text"),
    [
        (
            {"affiliations": "other"},
            f"put the tables of affiliations into 'other', but {USERS} into 'default': a row",
        ),
        (
            {USERS_APP: "other", "admin": "other", "contenttypes": "other"},
            f"put the tables of affiliations into 'default', but {USERS} into 'other'",
        ),
        (
            {"admin": "other"},
            f"put admin.LogEntry into 'other', but {USERS}, contenttypes.ContentType into",
        ),
        (
            {"contenttypes": "other"},
            "put admin.LogEntry into 'default', but contenttypes.ContentType into 'other'",
        ),
        (
            {"affiliations.sentform": "other"},
            "put affiliations.SentForm into 'other', but affiliations.Visitor into 'default'",
        ),
    ],
)
def test_a_reference_into_another_database_is_an_error(
    settings: Any, places: dict[str, str], text: str
) -> None:
    [(number, message)] = found(settings, PlacesRouter(places))
    assert number == "E014"
    assert text in message


def test_the_command_stops_before_the_first_page_fails(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [PlacesRouter({"affiliations": "other"})]
    with pytest.raises(SystemCheckError, match=r"(?s)E014.*name one database for all of them"):
        call_command("check", tags=["affiliations"])


def test_a_site_without_the_admin_has_no_log(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    assert found(settings, PlacesRouter({"admin": "other"})) == []


@pytest.mark.parametrize(("name", "ids"), [("site", []), ("elsewhere", ["E014"])])
def test_two_aliases_of_one_database_are_one(
    settings: Any, monkeypatch: pytest.MonkeyPatch, name: str, ids: list[str]
) -> None:
    for alias, database in (("default", "site"), ("other", name)):
        monkeypatch.setattr(connections[alias], "vendor", "postgresql")
        wanted = {"ENGINE": "django.db.backends.postgresql", "HOST": "db", "NAME": database}
        monkeypatch.setattr(connections[alias], "settings_dict", wanted)

    class SchemasRouter(PlacesRouter):
        def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool:
            return True

    messages = found(settings, SchemasRouter({"affiliations": "other"}))
    assert [number for number, _text in messages] == ids


class TestReplicas:
    def test_whose_rows_may_refer_to_each_other_pass(self, settings: Any) -> None:
        assert found(settings, ReplicaRouter()) == []

    def test_whose_rows_may_not_are_an_error(self, settings: Any) -> None:
        [(number, message)] = found(settings, ReplicaOnlyRouter())
        assert number == "E015"
        assert message.startswith(
            "DATABASE_ROUTERS read affiliations.Visitor from 'other' and write to 'default', but"
        )
        assert "def allow_relation(self, obj1, obj2, **hints)" in str(check_routers()[0].hint)

    def test_of_the_users_alone_are_looked_at(self, settings: Any) -> None:
        class UsersRouter:
            def db_for_read(self, model: Any, **hints: Any) -> str | None:
                return "other" if model._meta.label == USERS else None

        [(number, message)] = found(settings, UsersRouter())
        assert (number, USERS in message) == ("E015", True)


class TestTables:
    class ForgetfulRouter:
        """Create the tables in another database, and forget to read and write them there."""

        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
            return db == "other" if app_label == "affiliations" else None

    def test_that_migrate_creates_elsewhere_are_told(self, settings: Any) -> None:
        [(number, message)] = found(settings, self.ForgetfulRouter())
        assert number == "W014"
        assert "DATABASE_ROUTERS write to 'default', but migrate" in message
        assert "affiliations.Visitor" in message

    def test_of_tenants_are_not(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = {"ENGINE": "django_tenants.postgresql_backend"}
        database = connections["default"].settings_dict | engine
        monkeypatch.setattr(connections["default"], "settings_dict", database)
        assert found(settings, self.ForgetfulRouter()) == []


class TestRoutersThatFail:
    class TenantRouter:
        """Ask for the tenant of the request."""

        def db_for_write(self, model: Any, **hints: Any) -> str:
            raise LookupError("No tenant.")

    class UnknownRouter:
        def db_for_write(self, model: Any, **hints: Any) -> str:
            return "elsewhere"

    class MigratingRouter:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            raise LookupError("No tenant.")

    @pytest.mark.parametrize(
        ("router", "problem"),
        [
            (TenantRouter(), "LookupError: No tenant. D"),
            (MigratingRouter(), "LookupError: No tenant. D"),
            (
                UnknownRouter(),
                "ConnectionDoesNotExist: The connection 'elsewhere' doesn't exist. D",
            ),
        ],
    )
    def test_are_told_and_end_no_command(self, settings: Any, router: object, problem: str) -> None:
        settings.DATABASE_ROUTERS = [router]
        out = StringIO()
        call_command("check", tags=["affiliations"], databases=["default"], stderr=out)
        assert f"W016) DATABASE_ROUTERS fail outside of a request: {problem}" in out.getvalue()

    def test_at_rows_without_values_pass(self, settings: Any) -> None:
        class PartnersRouter:
            def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool:
                return bool(obj1.partner == obj2.partner)

        assert found(settings, PartnersRouter()) == []


@pytest.mark.django_db
def test_only_checks_of_databases_connect_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # Since Django 6.1, checks that are named by a tag are given all databases.
    asked: list[str] = []
    monkeypatch.setattr("affiliations.db.narrow_columns", lambda alias: asked.append(alias) or [])
    run_checks(tags=["affiliations"], databases=["default"])
    assert asked == []
    run_checks(tags=["database"], databases=["default"])
    assert asked == ["default"]


def test_each_transaction_names_its_database() -> None:
    """The tables of the app may be in another database than the default one."""
    unnamed = [
        f"{path.name}:{call.lineno}"
        for path in Path(affiliations.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in {"atomic", "on_commit", "set_rollback"}
        and "using" not in [keyword.arg for keyword in call.keywords]
    ]
    assert unnamed == []
