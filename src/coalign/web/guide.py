"""The maps of the field as a picture that can be walked, and advice as a form, for the workbench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from coalign.core.catalogue import get
from coalign.core.options import build
from coalign.guide.advice import Advised, advise
from coalign.guide.situation import ACCESS, KINDS, Situation, goals
from coalign.guide.taxonomy import MAPS, MapName, Node, Taxonomy, taxonomy

WIDTH, ROW, LETTER = 1000, 34, 7.2
"""Of the picture, in its own units: across, a leaf's height, and a letter's width."""
CHOICES: Mapping[str, Sequence[str]] = {
    "access": ACCESS,
    "model_kind": ("base", "aligned"),
    "budget": ("cpu", "gpu", "cluster"),
}
FLAGS = {
    "strong": "a stronger model can write or judge",
    "reward": "a reward model, or rules",
    "people": "people can judge",
}


def picture(tree: Taxonomy, root: Node | None) -> Markup:
    """Nodes as boxes, children on the right of their parent, each a link to itself as the root of the picture.

    A box is as high as the leaves below it; leaves without a system are dashed.
    """
    tops = [root] if root is not None else tree.children(None)
    levels = max(_depth(tree, one) for one in tops)
    wide = WIDTH / levels
    boxes: list[Markup] = []

    def place(node: Node, level: int, row: int) -> int:
        """Draw a node and what is below it; how many rows that takes."""
        below = row
        for child in tree.children(node):
            below += place(child, level + 1, below)
        rows = max(below - row, 1)
        last = not tree.children(node)
        css = " ".join(
            [
                "node",
                *(["gap"] if last and not node.systems else []),
                *(["ours"] if node.origin == "extension" else []),
            ]
        )
        width = WIDTH - level * wide if last else wide
        text = f"{node.id} {node.name}"
        room = int((width - 16) / LETTER)
        shown = text if len(text) <= room else f"{text[: room - 1]}…"
        boxes.append(
            Markup(
                '<a href="/map/{}?node={}"><title>{}: {} {}</title><rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}" rx="4"/>'
                '<text x="{:.1f}" y="{}">{}</text></a>'
            ).format(
                *(
                    tree.name,
                    node.id,
                    text,
                    node.meaning,
                    "No system." if "gap" in css else f"{_count(tree, node)} systems.",
                ),
                *(css, level * wide + 1, row * ROW + 1, width - 2, rows * ROW - 2),
                *(level * wide + 9, row * ROW + ROW / 2 + 5, shown),
            )
        )
        return rows

    height = 0
    for one in tops:
        height += place(one, 0, height)
    label = f"{tree.title}: {root.name if root is not None else 'the whole map'}"
    return Markup('<svg class="map" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>').format(
        WIDTH, height * ROW, label, Markup("").join(boxes)
    )


def _depth(tree: Taxonomy, node: Node) -> int:
    return 1 + max((_depth(tree, child) for child in tree.children(node)), default=0)


def _count(tree: Taxonomy, node: Node) -> int:
    """Systems whose place is the node or below it."""
    return len(node.primary) + sum(_count(tree, child) for child in tree.children(node))


def map_values(name: MapName, node: str) -> dict[str, Any]:
    """What the page of a map shows.

    Raises:
        ConfigError: there is no such node.
    """
    tree = taxonomy(name)
    root = tree.node(node) if node else None
    below = [
        one for one in tree.nodes if root is None or one.id == root.id or one.id.startswith(f"{root.id}.")
    ]
    return {
        "maps": [taxonomy(one) for one in MAPS],
        "tree": tree,
        "survey": get(tree.survey),
        "node": root,
        "path": tree.path(root) if root is not None else [],
        "picture": picture(tree, root),
        "below": [
            (one, [get(slug) for slug in one.primary], [get(slug) for slug in one.also]) for one in below
        ],
        "children": tree.children,
    }


def advice_values(asked: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the page of advice shows for the fields of its form.

    Raises:
        ConfigError: a field that is none, or a value that it does not take.
    """
    given: dict[str, Any] = {}
    for name, values in asked.items():
        kept = [one for one in values if one]
        if kept:
            given[name] = kept if name in ("goal", "have") else True if name in FLAGS else kept[0]
    found: Advised | None = advise(build(Situation, given)) if given else None
    return {
        "given": given,
        "found": found,
        "goals": goals(),
        "kinds": KINDS,
        "choices": CHOICES,
        "flags": FLAGS,
    }
