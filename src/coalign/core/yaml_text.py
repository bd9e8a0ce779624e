"""YAML from outside: what would take the machine's memory or time, or breaks PyYAML, is refused where it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError, in_one_line
from coalign.core.files import is_valid

LONGEST = 2**20
"""Characters of a document."""
DEEPEST = 64
"""Levels of lists and mappings in each other."""
LARGEST = 100_000
"""Values that a document stands for once every alias is what it points to."""
MOST_DIGITS = 3000
"""Digits of a whole number: Python writes none of more than 4300 decimal ones."""


def parse_yaml(text: str) -> Any:
    """`yaml.safe_load` of text from outside.

    Raises:
        ValueError: it is not YAML, is longer than `LONGEST` or nested deeper than `DEEPEST`, stands for more than
            `LARGEST` values or for itself, or holds a value that its form promises and that does not exist (a date, a
            number of thousands of digits). The message has the line where there is one.
    """
    import yaml

    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, expected at most {LONGEST}")
    loader = None
    try:
        loader = _loader()(text)  # looks at the first characters already
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except Exception as error:  # PyYAML's constructors raise KeyError, IndexError and others at odd scalars
        raise ValueError(f"a value that cannot be read ({in_one_line(error)})") from error
    finally:
        if loader is not None:
            loader.dispose()


def load_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: the file is absent, cannot be read or is refused by `parse_yaml`.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def _loader() -> Any:
    import yaml

    class Bounded(yaml.SafeLoader):
        """Counts levels and values while it reads, so that nothing is built that is too large."""

        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.depth = 0
            self.sizes: dict[int, int] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            event = self.peek_event()
            place, is_alias = event.start_mark, isinstance(event, yaml.AliasEvent)
            if self.depth > DEEPEST:
                raise yaml.MarkedYAMLError(None, None, f"nested deeper than {DEEPEST} levels", place)
            node: Any = super().compose_node(parent, index)
            self.depth -= 1
            if isinstance(node, yaml.ScalarNode) and not is_valid(node.value):
                raise yaml.MarkedYAMLError(None, None, "half a surrogate pair", place)
            if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MOST_DIGITS:
                raise yaml.MarkedYAMLError(None, None, f"{len(node.value)} digits", place)
            if is_alias and id(node) not in self.sizes:
                raise yaml.MarkedYAMLError(None, None, "a value that holds itself", place)
            if not is_alias:
                within = node.value if isinstance(node, yaml.CollectionNode) else ()
                parts = [one for pair in within for one in (pair if isinstance(pair, tuple) else (pair,))]
                self.sizes[id(node)] = 1 + sum(self.sizes[id(one)] for one in parts)
            if self.sizes[id(node)] > LARGEST:
                raise yaml.MarkedYAMLError(None, None, f"stands for more than {LARGEST} values", place)
            return node

    return Bounded
