"""What the code says about each setting, check, reason and so on, as reST for the reference."""

from __future__ import annotations

import ast
import inspect
import re
from argparse import Action
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from affiliations import checks, conf, database_checks, placeholders
from affiliations.exceptions import Reason
from affiliations.models.delivery_errors import DeliveryError


class Entry(NamedTuple):
    name: str
    #: The lines above and below what a page adds.
    above: list[str]
    below: list[str] = []


#: What is code in plain text: names of settings, and what has straight quotes.
CODE = re.compile(r'\bAFFILIATE_\w+(?: = \w+)?|\[".*?\]|\{".*?\}|".*?"')


def prose(text: object) -> str:
    """Turn plain text into reST."""
    escaped = re.sub(r"([\\*`|])", r"\\\1", str(text))
    return CODE.sub(r"``\g<0>``", escaped)


def sentence(text: object) -> str:
    written = prose(text)
    return written[:1].upper() + written[1:] + "." * (written[-1:] not in ".”")


def all_settings() -> Iterator[Entry]:
    for setting in conf.table().values():
        default = repr(setting.default).replace("'", '"').removeprefix("datetime.")
        facts = ["| Mandatory" if setting.is_mandatory else f"| Default: ``{default}``"]
        if setting.must_be:
            facts.append(f"| Valid: {prose(setting.must_be)}")
        yield Entry(setting.name, [prose(setting.__doc__), "", *facts])


def all_checks() -> Iterator[Entry]:
    found: dict[str, list[str]] = {}
    for module in (checks, database_checks):
        for name, lines in messages(module):
            found.setdefault(name, []).extend(lines)
    return (Entry(*item) for item in sorted(found.items()))


def messages(module: ModuleType) -> Iterator[tuple[str, list[str]]]:
    """Yield the id and the lines of each message that the functions of a module can create."""
    nodes = ast.walk(ast.parse(inspect.getsource(module)))
    for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
        is_deploy = any("deploy=True" in ast.unparse(node) for node in function.decorator_list)
        deploy = ["Only ``python manage.py check --deploy`` shows it.", ""] if is_deploy else []
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if {"id", "hint"} <= given.keys():
                message, hint = (template(n, module) for n in (call.args[0], given["hint"]))
                block = [".. code-block:: text", "    :class: message", "", f"    {message}"]
                yield template(given["id"], module), [*block, f"    HINT: {hint}", "", *deploy]


def template(node: ast.expr, module: ModuleType) -> str:
    """Return the text of an expression, with <name> for all but the constants of its module."""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, module) for part in node.values)
    if isinstance(node, ast.IfExp):
        return f"{template(node.body, module)} {template(node.orelse, module)}"
    if isinstance(node, ast.FormattedValue):
        name = ast.unparse(node.value)
        if re.fullmatch(r"_?[A-Z][\w.]+", name) and hasattr(module, name.split(".")[0]):
            value = eval(name, vars(module))
            return repr(value) if node.conversion == ord("r") else str(value)
        return f"<{name.rpartition('.')[2]}>" if re.fullmatch(r"[a-z_.]+", name) else "…"
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def all_placeholders() -> Iterator[Entry]:
    for row in placeholders.PLACEHOLDERS:
        sample = f" In a test callback: ``{row.sample}``." if row.needs_conversion else ""
        yield Entry(f"{{{row.name}}}", [f"{prose(row.explanation)}{sample}"])


def all_choices(choices: type[Reason | DeliveryError]) -> Iterator[Entry]:
    for choice in choices:
        yield Entry(choice.value, [f"**{sentence(choice.label)}**", ""], [prose(choice.cure)])


def all_commands() -> Iterator[Entry]:
    of_django = BaseCommand().create_parser("", "")._option_string_actions
    for name in sorted(name for name, app in get_commands().items() if app == "affiliations"):
        command = load_command_class("affiliations", name)
        options = [f".. program:: {name}", ""]
        for action in command.create_parser("manage.py", name)._actions:
            if not of_django.keys() & set(action.option_strings):
                options += [f".. option:: {usage(action)}", "", f"    {prose(action.help)}", ""]
        yield Entry(name, [prose(command.help)], options)


def usage(action: Action) -> str:
    if not action.option_strings:
        return f"<{action.dest}>"
    value = action.metavar or "|".join(action.choices or ()) or action.dest.upper()
    return action.option_strings[0] + (f" {value}" if action.nargs != 0 else "")


def all_models() -> Iterator[Entry]:
    for model in apps.get_app_config("affiliations").get_models():
        docs = {name: inspect.getdoc(value) or "" for name, value in vars(model).items()}
        public = ", ".join(name for name, doc in docs.items() if ":meta public:" in doc)
        if not model._meta.proxy:
            lines = [f".. autoclass:: affiliations.models.{model.__name__}()"]
            yield Entry(model.__name__, lines + [f"    :members: {public}"] * bool(public))


def field_lines(field: Any, comment: str) -> list[str]:
    """Describe a field of a model; ``comment`` is the text of the ``#:`` above it."""
    target = f" to {field.related_model._meta.object_name}" if field.related_model else ""
    null = ", may be null" if field.null else ""
    help_text = sentence(field.help_text) if field.help_text else ""
    values = ", ".join(f"``{value}`` ({prose(label)})" for value, label in field.flatchoices)
    one_of = f"One of {values}." if values else ""
    text = f"{help_text} {comment} {one_of}".strip() or sentence(field.verbose_name)
    return [f"``{field.name}`` : {type(field).__name__}{target}{null}", f"    {text}", ""]


SOURCES: dict[str, Callable[[], Iterator[Entry]]] = {
    "checks": all_checks,
    "commands": all_commands,
    "errors": lambda: all_choices(DeliveryError),
    "models": all_models,
    "placeholders": all_placeholders,
    "reasons": lambda: all_choices(Reason),
    "settings": all_settings,
}
