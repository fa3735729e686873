"""
Forms that write only the fields that were changed in them.

Each field of a form also sends the value that it showed. So a page that was opened before another
user's change does not write the old values.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db import models, transaction
from django.db.models import F
from django.http import HttpResponseRedirect
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext, override

from affiliations import db
from affiliations.admin.callback_urls import CORRECT

if TYPE_CHECKING:
    from django.contrib.admin.options import InlineModelAdmin
    from django.http import HttpRequest, HttpResponse

    _Inline = InlineModelAdmin
else:
    _Inline = object

#: A column that an action writes, compared together with the fields of the form: a form that was
#: read before a stop for fraud does not make the partner active afterwards.
_GUARDED = "stopped_on"
_MAX_LENGTH = 200
#: The key of the changed values in an entry of the history, which Django itself leaves alone.
_VALUES = "values"


class Outdated(Exception):
    """A row was changed after it was read to be changed."""


class _KeysInput(forms.HiddenInput):
    """Primary keys in one input, which is sent even if there are none."""

    def format_value(self, value: Any) -> str:
        return ",".join(sorted(str(key) for key in value or ()))

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[str]:
        return [key for key in data.get(name, "").split(",") if key]


class ChangesForm(forms.ModelForm):
    """
    The form of a row, which writes the changed fields only.

    If another user has changed fields since the page was opened, and this user changes any, each of
    those fields gets an error, because the values of a row belong together. The form then shows
    the present values, except in fields that this user has changed too. If the user sends the form
    again, it is accepted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The present values, in words, of the fields that another user has changed.
        self._conflicts: dict[str, str] = {}
        if self.instance._state.adding:
            return
        opts = self.instance._meta
        self._stored = {
            field.name: getattr(self.instance, field.attname) for field in opts.concrete_fields
        }
        self._own = [
            field for field in (*opts.concrete_fields, *opts.many_to_many)
            if field.name in self.fields
        ]  # fmt: skip
        # A script may send only the new values.
        says_what_was_shown = not self.is_bound or any(
            self[field.name].html_initial_name in self.data for field in self._own
        )
        for field in self._own:
            form_field = self.fields[field.name]
            form_field.show_hidden_initial = says_what_was_shown
            if field.many_to_many:
                form_field.hidden_widget = _KeysInput
        if self.is_bound and says_what_was_shown:
            self._compare()

    def is_valid(self) -> bool:
        """Let a button that corrects a callback URL show the form again, and save nothing."""
        return CORRECT not in self.data and super().is_valid()

    def _compare(self) -> None:
        """Find what another user has changed, and take over the present values."""
        changed_here = set(self.changed_data)
        data: Any = self.data.copy()  # type: ignore[attr-defined] # a QueryDict
        self.data = data
        found = {}
        for field in self._own:
            bound = self[field.name]
            present = bound.field.prepare_value(bound.initial)
            shown = bound.field.hidden_widget().format_value(present) or ""
            sent = data.get(bound.html_initial_name, shown)
            # Browsers send each line break as two characters.
            if sent.replace("\r\n", "\n") != shown.replace("\r\n", "\n"):
                data[bound.html_initial_name] = shown
                if field.name not in changed_here:
                    _show(data, bound, present)
                text = _in_words(field, bound.initial, present)
                found[field.name] = Truncator(text).chars(_MAX_LENGTH)
        if not found:
            return
        del self.changed_data
        # Both users may have made the same change.
        agreed = changed_here.difference(self.changed_data)
        self._conflicts = {name: text for name, text in found.items() if name not in agreed}

    def add_error(self, field: str | None, error: Any) -> None:
        """
        Add the errors of the row: each in its field, or above the form if the form lacks the field.

        A field that already has an error gets no other, because the row was validated without its
        value.
        """
        if not hasattr(error, "error_dict"):
            super().add_error(field, error)
            return
        for name, mistakes in error.error_dict.items():
            if name not in self.errors:
                super().add_error(name if name in self.fields else None, mistakes)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc] # private
        if not self.has_changed():
            return
        for name, present in self._conflicts.items():
            text = gettext(
                "Another user has changed “%(field)s” to “%(value)s” since you opened this page. "
                "Check the form and save it again."
            )
            label = capfirst(str(self[name].label))
            self.add_error(name, text % {"field": label, "value": present})

    def save(self, commit: bool = True) -> Any:
        if not commit or self.instance._state.adding:
            return super().save(commit)
        self.write()
        self._save_m2m()  # type: ignore[attr-defined] # private
        return self.instance

    def write(self) -> None:
        """
        Write the changed fields of the row, including those that the host's code has changed.

        Raises:
            Outdated: If a field of the form has changed since the row was read.
        """
        row = self.instance
        changed = [
            name for name, value in self._stored.items()
            if value != getattr(row, row._meta.get_field(name).attname)
        ]  # fmt: skip
        if not changed and not self.has_changed():
            return
        names = {_GUARDED, *(field.name for field in self._own)}
        expected = {name: value for name, value in self._stored.items() if name in names}
        rows = type(row)._base_manager.using(db.write_alias()).filter(pk=row.pk, **expected)
        with transaction.atomic(using=db.write_alias()):
            # An update locks the row on every database, and sees what others have committed.
            name = next(iter(expected))
            if not rows.update(**{name: F(name)}) or not self._has_same_relations():
                raise Outdated
            row.save(update_fields=changed)

    def history(self) -> list[list[str]]:
        """
        Return the label of each changed field, with its old and new value, untranslated.

        The values are left out for relations and e-mail addresses, which may name persons, and for
        long texts, such as payment details. They are also left out for fields that the model does
        not have or that are not editable, such as a secret.
        """
        own = {field.name: field for field in self._own}
        with override(None):
            return [self._history_of(name, own.get(name)) for name in self.changed_data]

    def _history_of(self, name: str, field: Any) -> list[str]:
        label = str(self[name].label)
        if field is None:
            return [label]
        if label == capfirst(str(field.verbose_name)):
            # Only the name without a capital letter is in the catalogues of translations.
            label = str(field.verbose_name)
        is_private = isinstance(field, (models.TextField, models.EmailField))
        if field.is_relation or is_private or not field.editable:
            return [label]
        in_form = self[name].field.prepare_value
        values = (self._stored[name], getattr(self.instance, name))
        return [label, *(_in_words(field, value, in_form(value)) for value in values)]

    def _has_same_relations(self) -> bool:
        """Tell whether the changed many-to-many fields are as they were read."""
        for field in self._own:
            if field.many_to_many and field.name in self.changed_data:
                through = field.remote_field.through._base_manager.using(db.write_alias())
                rows = through.filter(**{field.m2m_field_name(): self.instance.pk})
                keys = rows.values_list(field.m2m_reverse_field_name(), flat=True)
                if set(keys.select_for_update()) != {one.pk for one in self[field.name].initial}:
                    return False
        return True


def changes_form(form: type[forms.ModelForm]) -> type[ChangesForm]:
    """Return a form, such as one of the host's own, that writes the changed fields only."""
    return type(form.__name__, (ChangesForm, form), {})


class ChangesMixin(admin.ModelAdmin):
    """A model whose form and list write the changed fields only."""

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return changes_form(super().get_form(request, *args, **kwargs))

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return changes_form(super().get_changelist_form(request, **kwargs))

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        """Add old and new values to Django's message: in English, and for translation."""
        message: Any = super().construct_change_message(request, form, formsets, add)
        forms = [] if add or not form.has_changed() else [form]
        for formset in formsets or ():
            rows = {row.pk for row, _fields in formset.changed_objects}
            forms += [one for one in formset.initial_forms if one.instance.pk in rows]
        changes = [part["changed"] for part in message if "changed" in part]
        for change, changed_form in zip(changes, forms, strict=True):
            if isinstance(changed_form, ChangesForm):
                change.update(history_entry(changed_form.history())["changed"])
        return message

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().history_view(request, *args, **kwargs)
        # If the row does not exist, the response is a redirect without entries.
        for entry in (getattr(response, "context_data", None) or {}).get("action_list", ()):
            entry.change_message = _translated(entry.change_message)
        return response

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change and isinstance(form, ChangesForm):
            form.write()
        else:
            super().save_model(request, obj, form, change)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except Outdated:
            return self._refuse(request)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changelist_view(request, *args, **kwargs)
        except Outdated:
            return self._refuse(request)

    def _refuse(self, request: HttpRequest) -> HttpResponse:
        text = gettext(
            "Nothing was saved, because another user made a change at the same moment. Check the "
            "current values and make your change again."
        )
        self.message_user(request, text, messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())


class ChangesInlineMixin(_Inline):
    """An inline whose forms write the changed fields only."""

    def get_formset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        formset = super().get_formset(request, *args, **kwargs)
        formset.form = changes_form(formset.form)
        return formset


def history_entry(values: list[list[str]]) -> dict[str, dict[str, Any]]:
    """Return a message as Django stores it: the changes in English, and their values."""
    with override(None):
        return {"changed": {"fields": [_changed(*value) for value in values], _VALUES: values}}


def _show(data: Any, bound: forms.BoundField, value: Any) -> None:
    """Put a value into the data of a form, as the field's own input would send it."""
    widget = bound.field.widget
    shown = widget.format_value(value)
    if isinstance(widget, forms.CheckboxInput):
        shown = ["on"] if value else []
    elif not isinstance(shown, (list, tuple)):
        shown = [shown or ""]
    data.setlist(bound.html_name, shown)


def _in_words(field: models.Field[Any, Any], value: Any, shown: Any) -> str:
    if field.many_to_many:
        text = ", ".join(map(str, value))
    elif isinstance(value, bool):
        text = gettext("Yes") if value else gettext("No")
    elif isinstance(value, Decimal):
        text = f"{value.normalize():f}"
    else:
        text = str(dict(field.flatchoices).get(value, "" if shown is None else shown))
    return text or "-"


def _changed(label: str, old: str | None = None, new: str | None = None) -> str:
    """Return the text about a field in an entry of the history, in the active language."""
    label = capfirst(gettext(label))
    if old is None or new is None:
        return label
    names = {"field": label, "old": gettext(old), "new": gettext(new)}
    return gettext("%(field)s from %(old)s to %(new)s") % names


def _translated(message: str) -> str:
    """Return the message of an entry of the history, with its values in the reader's language."""
    if not message.startswith("[{"):
        return message
    parts = json.loads(message)
    for part in parts:
        if values := part.get("changed", {}).get(_VALUES):
            part["changed"]["fields"] = [_changed(*value) for value in values]
    return json.dumps(parts)
