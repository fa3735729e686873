"""
The directive of the reference pages, which takes its entries from the code.

``.. generated:: settings`` writes an entry for each setting; ``entries.SOURCES`` has the others.
Its content says what the code does not, as a definition list by the names of the entries::

    .. generated:: settings

        AFFILIATE_CONSENT
            A longer explanation.

After the name and a colon, a term may have a title. A name without an entry is an error. The option
``list`` writes a list instead of sections.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from entries import SOURCES, field_lines
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx.util.parsing import nested_parse_to_nodes


class Generated(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"list": directives.flag}

    def run(self) -> list[nodes.Node]:
        source = self.arguments[0]
        added = self.added()
        text = StringList()
        for entry in SOURCES[source]():
            title, lines = added.pop(entry.name, ("", StringList()))
            above = StringList([*entry.above, ""], source)
            body = above + lines + StringList(["", *entry.below, ""], source)
            head = [f".. _{source}-{entry.name.strip('{}')}:", ""]
            if "list" in self.options:
                head += [f".. describe:: {entry.name}", ""]
                body = StringList([f"    {line}" for line in body], items=body.items)
            else:
                head += [f"{entry.name}{title}", "-" * 100, ""]
            text.extend(StringList(head, source) + body)
        if added:
            raise self.error(f"The code has no {source} with the name {', '.join(added)}.")
        return nested_parse_to_nodes(self.state, text)

    def added(self) -> dict[str, tuple[str, StringList]]:
        """Return the title and the lines that the page adds to each entry."""
        starts = [at for at, line in enumerate(self.content) if line[:1].strip()]
        found = {}
        for start, end in pairwise([*starts, len(self.content)]):
            name, colon, title = self.content[start].partition(":")
            lines = self.content[start + 1 : end]
            lines.trim_left(4)
            found[name] = (colon + title, lines)
        return found


def add_fields(
    app: Sphinx, what: str, name: str, model: Any, options: object, lines: list[str]
) -> None:
    """Add the fields of a model to its docstring."""
    if what != "class" or not hasattr(model, "_meta"):
        return
    comments: dict[str, str] = {}
    for owner in model.__mro__:
        if owner.__module__.startswith("affiliations."):
            found = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
            comments |= {
                field: " ".join(text).strip()
                for (owner_name, field), text in found.items()
                if owner_name == owner.__name__
            }
    for field in (*model._meta.local_fields, *model._meta.local_many_to_many):
        if field.name != "id":
            lines += field_lines(field, comments.get(field.name, ""))


class LinkNames(SphinxPostTransform):
    """Link each literal that names a setting or a check to its entry."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        labels = self.env.domains.standard_domain.anonlabels
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().partition(" ")[0].lower()
            found = labels.get(f"settings-{name}") or labels.get(f"checks-{name}")
            if found and not isinstance(literal.parent, nodes.reference | nodes.title):
                docname, target = found
                link = literal.deepcopy()
                literal.replace_self(
                    make_refnode(self.app.builder, self.env.docname, docname, target, link)
                )


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("generated", Generated)
    app.add_post_transform(LinkNames)
    app.connect("autodoc-process-docstring", add_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
