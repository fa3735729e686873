from __future__ import annotations

from typing import Any


class ElsewhereRouter:
    """Keep the database "other" empty but for `testapp.Elsewhere`."""

    def _route(self, model: Any) -> str | None:
        return "other" if model._meta.label_lower == "testapp.elsewhere" else None

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return self._route(model)

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return self._route(model)

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        if (app_label, model_name) == ("testapp", "elsewhere"):
            return db == "other"
        return False if db == "other" else None


class ReplicaRouter:
    """Read from a replica that has not heard of anything yet."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "other"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool:
        return True


class PlacesRouter:
    """Keep each app, or each model, in the database that is given for it, or in the default one."""

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places

    def _route(self, app_label: str, model_name: str | None) -> str:
        own = self.places.get(f"{app_label}.{model_name}")
        return own or self.places.get(app_label, "default")

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self._route(model._meta.app_label, model._meta.model_name)

    db_for_write = db_for_read

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool:
        return self._route(app_label, model_name) == db
