"""Keys and passwords do not reach messages, logs, events, status, configuration files or reports.

Hidden are the values that were used as keys or given in a key's place, the values of environment variables whose names say
that they hold one, and what has the form of a key: the user of an address, `Bearer ...`, keys with the marks of
well-known services.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

HIDDEN = "***"
LEAST = 8
"""Characters of a value that is hidden wherever it stands: shorter ones are ordinary words."""

_FLAG = re.compile(r"(^|[-_])(key|token|secret|password|passwd)([-_]variable)?$", re.IGNORECASE)
_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD)S?$", re.IGNORECASE)
_FORMS = re.compile(
    r"(?<=://)[^\s/'\"]+(?=@)|(?<=[a-z]:/)[^\s/'\"]+:[^\s/'\"]+(?=@)"  # a path has one slash of an address left
    r"|(?<=[Bb]earer )[^\s'\",]+"
    r"|(?<=[?&]key=)[^&\s'\"]+|(?<=[?&]api_key=)[^&\s'\"]+|(?<=[?&]token=)[^&\s'\"]+"
    r"|\b(?:hf_|sk-|gsk_|ghp_|github_pat_|xox[abp]-|AIza)(?=[\w-]*\d)[\w-]{8,}"
)
_PASSWORD = re.compile(r":/{1,2}[^\s/]*:[^\s/]*@")
_held: set[str] = set()


def hold(value: str | None) -> None:
    """Hide a value from now on, wherever it stands."""
    for one in {value, value.strip()} if value else ():
        if len(one) >= LEAST:
            _held.add(one)


def hold_arguments(argv: Sequence[str]) -> None:
    """Hide what a command line gives to flags that are called like a key, unless it is a variable's name."""
    for one, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = one.partition("=")
        if one.startswith("--") and _FLAG.search(flag[2:]):
            given = value if equals else following
            if given not in os.environ and not re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", given):
                hold(given)


def is_called_a_key(name: str) -> bool:
    """Whether an option's or a flag's name says that it holds a key, or where one is."""
    return _FLAG.search(name) is not None


def redacted(text: str) -> str:
    """A text without secrets."""
    return _pattern(_values()).sub(HIDDEN, text)


def redacted_values(value: Any) -> Any:
    """The same of every text in plain values: lists, mappings with their keys."""
    pattern = _pattern(_values())

    def clean(one: Any) -> Any:
        if isinstance(one, str):
            return pattern.sub(HIDDEN, one)
        if isinstance(one, Mapping):
            return {clean(name): clean(part) for name, part in one.items()}
        return [clean(part) for part in one] if isinstance(one, list | tuple) else one

    return clean(value)


def redacted_arguments(argv: Sequence[str]) -> list[str]:
    """A command line without secrets, those of flags called like a key included, however short."""
    shown, hide = [], False
    for one in argv:
        name, equals, _ = one.partition("=")
        if hide:
            shown.append(HIDDEN)
            hide = False
        elif one.startswith("--") and _FLAG.search(name[2:]) and not name.endswith("-variable"):
            shown.append(f"{name}={HIDDEN}" if equals else name)
            hide = not equals
        else:
            shown.append(redacted(one))
    return shown


def holds_password(value: Any) -> bool:
    """Whether an address with a password stands in a value, also inside lists and mappings."""
    if isinstance(value, str):
        return _PASSWORD.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(holds_password, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_password, value))


def redact_log_records() -> None:
    """Let every log record of this process be made without secrets."""
    make: Callable[..., logging.LogRecord] = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            message = made.getMessage()
        except Exception:  # left to logging, which tells of arguments that do not fit their message
            return made
        clean = redacted(message)
        if clean != message:
            made.msg, made.args = clean, ()
        return made

    record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)


@functools.lru_cache(maxsize=8)
def _pattern(values: frozenset[str]) -> re.Pattern[str]:
    """What is hidden, the longest value first."""
    longest_first = sorted(values, key=lambda one: (-len(one), one))
    return re.compile("|".join([*map(re.escape, longest_first), _FORMS.pattern]))


def _values() -> frozenset[str]:
    named = {
        value
        for name, value in os.environ.items()
        if _VARIABLE.search(name) and len(value) >= LEAST and not value.startswith(("/", "~", "."))
    }
    return frozenset(_held | {one for one in named if not one.isdigit()})
