"""Each of our regular expressions takes linear time, whatever the network sends."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import affiliations
from affiliations import links, query_strings, url_mistakes
from affiliations.exceptions import InvalidCallBackURL
from affiliations.tracking import landing_pages
from tests.growth import assert_linear

# No database is asked.
pytestmark = pytest.mark.only_on("sqlite")

#: A linear expression takes milliseconds for 100 KB, a quadratic one half a minute.
LENGTH = 100_000

#: A character of each class, and what begins, separates or ends something in our texts.
CHARACTERS = [
    *"aZ_0-.,:;/\\?&=#%@+*~!|^$'\"`<>()[]{}",
    *" \t\n\r\0\x1b\x7f\x85\xa0é😀\u0301\u200b\u202e\u2028\uff20",
]  # fmt: skip
MIXES = [
    "a0", "a.", "a-", "-a", "a:", ":0", "a/", "/.", "./", "a@", "@a", "@.", "a=", "=a", "&a",
    "a&a=", "a%", "%a", "%40", "%25", "%0", "%%", "%%a", "%%a%%", "#a", "#a#", "$a", "$a$", "${",
    "${a", "{a", "a}", "{{", "}}", "{{a", "{a}", "{{a}}", "{}", "}{", "[a", "[a]", "<a", "<a>", "://",
    "a://", "?a=", "a ", " a", "\n ", ";\"", ",\"", ";\" ", "=+", "a\n", "a\0", "aé", "é.", ".a",
    "..a", "..", "a1-", "\u200b=", "A:0:", "a:0:a:",
]  # fmt: skip


#: What functions make of their arguments, by the source: one expression of a plain key, one not.
MADE: dict[str, list[Any]] = {
    "'|'.join(clues)": [
        query_strings.may_name([key]).__self__ for key in ("affiliate_id", "partner é")
    ]
}


def modules() -> Iterator[tuple[ModuleType, ast.Module]]:
    root = Path(affiliations.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if "migrations" not in parts:
            try:
                module = import_module(".".join(parts).removesuffix(".__init__"))
            except ImportError:
                continue  # Without Celery or Django's tasks, which other runs have.
            yield module, ast.parse(path.read_text(encoding="utf-8"))


def patterns_in(value: object) -> Iterator[re.Pattern[Any]]:
    """Yield the compiled expressions in a variable, also in collections and classes."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict):
        yield from patterns_in([*value, *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from patterns_in(item)
    elif hasattr(value, "regex"):  # a validator of Django
        yield from patterns_in(value.regex)
    elif isinstance(value, type) and value.__module__.startswith("affiliations."):
        yield from patterns_in([item for item in vars(value).values() if item is not value])


def calls(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.Call, bool]]:
    """Yield the calls of functions of ``re``, and whether they are inside a function of ours."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr != "escape"
        ):
            yield node, inside
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from calls(node, inside=inside or is_function)


def all_patterns() -> dict[tuple[str | bytes, int], re.Pattern[Any]]:
    found = []
    for module, tree in modules():
        found += [
            pattern
            for name, value in vars(module).items()
            if not isinstance(value, ModuleType) and name != "__builtins__"
            for pattern in patterns_in(value)
        ]
        for call, is_inside in calls(tree):
            if not is_inside and call.func.attr == "compile":
                continue  # It is in a variable.
            source, flags = ast.unparse(call.args[0]), 0
            if source in MADE:
                found += MADE[source]
                continue
            for argument in [*call.args[1:], *(keyword.value for keyword in call.keywords)]:
                if ast.unparse(argument).startswith("re."):
                    flags |= eval(ast.unparse(argument))
            # An expression of local variables fails here: write it where the test can see it.
            found.append(re.compile(eval(source, dict(vars(module))), flags))
    return {(pattern.pattern, pattern.flags): pattern for pattern in found}


PATTERNS = all_patterns()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=lambda pattern: str(pattern.pattern))
def test_an_expression_takes_linear_time(pattern: re.Pattern[Any]) -> None:
    def read(unit: str, length: int) -> None:
        text = unit * (length // len(unit)) + "\0!"
        data = text.encode() if isinstance(pattern.pattern, bytes) else text
        pattern.fullmatch(data)
        pattern.sub(data[:0], data)

    for unit in CHARACTERS:
        assert_linear(partial(read, unit), LENGTH)
    for unit in MIXES:
        assert_linear(partial(read, unit), LENGTH // 5)


def test_the_expressions_are_found_wherever_they_are_written() -> None:
    sources = {source for source, _ in PATTERNS}
    assert len(sources) > 25
    assert {
        links._MACRO.pattern,
        landing_pages._ADDRESS.pattern,
        r"[\w-]{1,64}",  # inside a function
        "[^a-z0-9]+",
    } <= sources
    assert any(str(source).startswith('((?:^|;"*)') for source in sources)  # in a dictionary


@pytest.mark.parametrize("unit", ["{", "{{", "{a}", "{ab", "${a}", "{{a}}", "%", "#a#", "a"])
def test_a_callback_url_of_any_length_is_refused_at_once(unit: str) -> None:
    def refuse(length: int) -> None:
        varied = "".join(f"{{{number}}}" for number in range(length // 8))
        for url in (f"https://a.example/{unit * length}", f"https://a.example/{varied}"):
            with pytest.raises(InvalidCallBackURL):
                url_mistakes.validate(url)

    assert_linear(refuse, LENGTH)


@pytest.mark.parametrize("unit", [*CHARACTERS, *MIXES])
def test_a_link_with_macros_takes_linear_time(unit: str) -> None:
    def link(length: int) -> str:
        return links.link_with_macros("/", "moox6esi", sub1=unit * (length // len(unit)))

    assert_linear(link, LENGTH)
