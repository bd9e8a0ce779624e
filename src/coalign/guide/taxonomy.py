"""Three surveys as maps: trees of named nodes, every system of the catalogue in one place of each, gaps shown.

risks     outer and inner alignment, attacks, evaluation (arXiv 2309.15025)
process   data, training, evaluation (arXiv 2307.12966)
goals     instructions, preferences, values (arXiv 2308.12014)

Names of nodes are the surveys'; meanings and placements are ours. The files are `coalign/guide/maps/NAME.toml`.
"""

from __future__ import annotations

import functools
import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from coalign.core.catalogue import entries
from coalign.core.errors import ConfigError
from coalign.core.names import suggest

MapName = Literal["risks", "process", "goals"]
MAPS: tuple[MapName, ...] = get_args(MapName)


@dataclass(frozen=True)
class Node:
    """A node.

    Attributes:
        id: letters and numbers with dots; all but the last part are its parent's.
        meaning: one phrase.
        primary: systems whose place it is.
        also: systems that belong here, too.
        origin: `survey`, or `extension` for what the survey does not have.
    """

    id: str
    name: str
    meaning: str
    primary: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    origin: str = "survey"

    @property
    def parent(self) -> str | None:
        return self.id.rpartition(".")[0] or None

    @property
    def systems(self) -> tuple[str, ...]:
        return self.primary + self.also


@dataclass(frozen=True)
class Taxonomy:
    """A map.

    Attributes:
        title: in words.
        survey: slug of the survey that it follows.
        nodes: parents before children.
    """

    name: MapName
    title: str
    survey: str
    nodes: tuple[Node, ...]

    def node(self, name: str) -> Node:
        """The node with an id, in whichever case.

        Raises:
            ConfigError: there is none; the nearest is named.
        """
        known = {one.id: one for one in self.nodes}
        if name.upper() not in known:
            raise ConfigError(
                f"{self.name}: no node {name!r}.",
                hint=suggest(name.upper(), known, f"Known: {', '.join(known)}."),
            )
        return known[name.upper()]

    def children(self, node: Node | None) -> list[Node]:
        """The nodes below one; the roots below None."""
        return [one for one in self.nodes if one.parent == (node.id if node is not None else None)]

    def path(self, node: Node) -> list[Node]:
        """From the root to the node."""
        above = [self.node(node.parent)] if node.parent else []
        return [*(self.path(above[0]) if above else []), node]

    def place(self, slug: str) -> Node:
        """The node whose primary a system is."""
        return next(one for one in self.nodes if slug in one.primary)

    def gaps(self) -> list[Node]:
        """Leaves of the survey without any system."""
        return [one for one in self.nodes if not one.systems and not self.children(one)]

    def faults(self) -> list[str]:
        """What is wrong with the map: ids twice, parents that are missing, systems without a place or with several."""
        ids = Counter(one.id for one in self.nodes)
        known = {entry.slug for entry in entries()}
        places = Counter(slug for one in self.nodes for slug in one.primary)
        named = {slug for one in self.nodes for slug in one.systems}
        return [
            *(f"{name}: {count} nodes" for name, count in ids.items() if count > 1),
            *(
                f"{one.id}: no parent {one.parent}"
                for one in self.nodes
                if one.parent and one.parent not in ids
            ),
            *(f"{one.id}: no name or meaning" for one in self.nodes if not one.name or not one.meaning),
            *(f"{slug}: primary of {places[slug]} nodes" for slug in sorted(known) if places[slug] != 1),
            *(f"{slug}: no system" for slug in sorted(named - known)),
        ]


@functools.cache
def taxonomy(name: MapName) -> Taxonomy:
    """One of the three maps."""
    text = (resources.files("coalign.guide") / "maps" / f"{name}.toml").read_text(encoding="utf-8")
    read = tomllib.loads(text)
    nodes = tuple(
        Node(**{**row, **{key: tuple(row[key]) for key in ("primary", "also") if key in row}})
        for row in read["node"]
    )
    return Taxonomy(name, read["title"], read["survey"], nodes)


def drawn(map: Taxonomy) -> str:
    """The map as lines of text: nodes with their systems, gaps marked, `*` on what a system is also about."""
    lines = [f"{map.title} (after {map.survey})"]
    available = {entry.slug for entry in entries() if entry.available}

    def shown(slug: str, mark: str = "") -> str:
        return f"{slug}{mark}" if slug in available else f"({slug}{mark})"

    def walk(node: Node, depth: int) -> None:
        systems = [shown(one) for one in node.primary] + [shown(one, "*") for one in node.also]
        gap = "  no system" if not systems and not map.children(node) else ""
        ours = "  [ours]" if node.origin == "extension" else ""
        lines.append(f"{'  ' * depth}{node.id:<8} {node.name}{ours}{gap}")
        if systems:
            lines.append(f"{'  ' * depth}{'':<9}{', '.join(systems)}")
        for child in map.children(node):
            walk(child, depth + 1)

    for root in map.children(None):
        walk(root, 0)
    lines.append("(in brackets: planned; *: belongs here, too; [ours]: the survey has no such node)")
    return "\n".join(lines)
