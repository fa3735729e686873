"""The templates of the Admin, with those of Django that they extend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.template import Context, NodeList, Template
from django.template.base import VariableNode
from django.template.loader import get_template
from django.template.loader_tags import BlockNode, ExtendsNode

import affiliations

ROOT = Path(affiliations.__file__).parent / "templates"
NAMES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.html"))


def lineage(name: str) -> list[Template]:
    """Return a template and those that it extends."""
    templates = [get_template(name).template]
    while extends := templates[-1].nodelist.get_nodes_by_type(ExtendsNode):
        parent = extends[0].parent_name.resolve(Context())
        templates.append(get_template(parent).template)
    return templates


def outer_blocks(nodes: NodeList) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, BlockNode):
            yield node.name
        else:
            for name in node.child_nodelists:
                yield from outer_blocks(getattr(node, name, NodeList()))


def rendered(templates: list[Template]) -> set[str]:
    """Return the names of the blocks that are rendered."""
    blocks = [
        {block.name: block for block in template.nodelist.get_nodes_by_type(BlockNode)}
        for template in templates
    ]
    found: set[str] = set()
    waiting = set(outer_blocks(templates[-1].nodelist))
    while waiting:
        found |= waiting
        inner: set[str] = set()
        for name in waiting:
            for block in (level[name] for level in blocks if name in level):
                inner.update(outer_blocks(block.nodelist))
                variables = block.nodelist.get_nodes_by_type(VariableNode)
                if "block.super" not in [node.token.contents for node in variables]:
                    break
        waiting = inner - found
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_rendered_by_the_templates_that_are_extended(name: str) -> None:
    """Otherwise a button is lost, in one version of Django only."""
    templates = lineage(name)
    own = {block.name for block in templates[0].nodelist.get_nodes_by_type(BlockNode)}
    assert own <= rendered(templates)
