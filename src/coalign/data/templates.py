"""Chat templates by file or by name, and where one fails.

Shipped are formats that many models share, written from their publications: `chatml` (OpenAI), `llama-3` (Meta),
`gemma` (Google), `zephyr` (Hugging Face) and `alpaca` (Stanford; plain text, for base models). `tools` is the model's own
template with a place for tools before it, `NAME+tools` another one's.
"""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.data.tools.fallback import with_place_for_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent / "chat_templates"
_MARKER = re.compile(r"<[^<>\s]{2,40}>")
TOOLS = "tools"
_WORD = "coalign"
_TRIALS = [
    [{"role": "user", "content": _WORD}],
    [{"role": "system", "content": "?"}, {"role": "user", "content": _WORD}],
]
"""Conversations of which a template must be able to write one."""


class TemplateText(str):
    """A template's text that knows where it comes from, for messages."""

    origin: str

    def __new__(cls, text: str, origin: str) -> TemplateText:
        made = super().__new__(cls, text)
        made.origin = origin
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return TemplateText, (str(self), self.origin)


def shipped_templates() -> dict[str, Path]:
    """Name to file of the templates that come with coalign."""
    return {one.stem: one for one in sorted(_FOLDER.glob("*.jinja"))}


def choose_template(tokenizer: PreTrainedTokenizerBase, wanted: str) -> None:
    """Give a tokenizer another chat template, which is saved with it.

    Args:
        wanted: a Jinja file, the name of one of the tokenizer's own templates where it has several, or of a shipped
            one; its own come first. `tools` and `WANTED+tools`: the tokenizer's own, or the wanted one, with a place for
            tools before it (`coalign.data.tools.fallback`).

    Raises:
        ConfigError: there is no such file or name, or the template cannot be compiled or used: `file:line` and why.
    """
    inner, plus, last = wanted.rpartition("+")
    if last != TOOLS or wanted in _own(tokenizer) or Path(wanted).expanduser().is_file():
        _put(tokenizer, _found(tokenizer, wanted))
        return
    if plus:
        _put(tokenizer, _found(tokenizer, inner))
    add_place_for_tools(tokenizer)


def add_place_for_tools(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put a place for tools before a tokenizer's chat template (`coalign.data.tools.fallback`); it is saved with it.

    Raises:
        ConfigError: it has no template to put it before, or several of which none is the default.
    """
    own = _own(tokenizer).get("default")
    if not own:
        raise ConfigError(
            "chat_template: there is no template of the model's own before which a place for tools could be put.",
            hint="Name one: --chat-template chatml+tools.",
        )
    text = with_place_for_tools(own, knows_system=_knows_system(tokenizer))
    tokenizer.chat_template = cast(Any, TemplateText(text, "the chat template with a place for tools"))


def _knows_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        return _WORD in _rendered(
            tokenizer, [{"role": "system", "content": _WORD}, {"role": "user", "content": "?"}]
        )
    except Exception:  # a template is a program: it may fail in any way
        return False


def _put(tokenizer: PreTrainedTokenizerBase, text: TemplateText) -> None:
    """Give a tokenizer a template that can be used; see `choose_template`."""
    before, tokenizer.chat_template = tokenizer.chat_template, cast(Any, text)
    try:
        _assert_usable(tokenizer, text)
    except ConfigError:
        tokenizer.chat_template = before
        raise
    missing = sorted({*_MARKER.findall(_written(tokenizer))} - {*tokenizer.get_vocab()})
    if missing:
        logger.warning(
            "%s: %s are no tokens of this tokenizer: each is written as several, and a turn that ends with one gets "
            "the end-of-sequence token behind it.",
            text.origin,
            ", ".join(missing),
        )


def template_failure(error: BaseException, origin: str | None) -> str:
    """`origin:line: why` of what a template raised while it was compiled or rendered; `line 3: why` without origin."""
    from jinja2 import TemplateSyntaxError

    line = error.lineno if isinstance(error, TemplateSyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        line = frame.lineno if frame.filename == "<template>" else line
    reason = (str(error).partition("\n")[0] or type(error).__name__).strip()
    if not isinstance(error, TemplateSyntaxError) and "Template" not in type(error).__name__:
        reason = f"{type(error).__name__}: {reason}"
    if origin is None:
        return f"line {line}: {reason}" if line else reason
    return f"{origin}:{line}: {reason}" if line else f"{origin}: {reason}"


def _own(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    own: Any = tokenizer.chat_template
    return own if isinstance(own, dict) else {"default": own} if own else {}


def _found(tokenizer: PreTrainedTokenizerBase, wanted: str) -> TemplateText:
    own = _own(tokenizer)
    if wanted in own:
        return TemplateText(own[wanted], f"the tokenizer's chat template {wanted!r}")
    path = Path(wanted).expanduser()
    shipped = shipped_templates()
    if wanted in shipped and not path.is_file():
        return TemplateText(shipped[wanted].read_text(encoding="utf-8"), f"the chat template {wanted!r}")
    if not path.is_file():
        known = [*own, *shipped, TOOLS]
        raise ConfigError(
            f"chat_template: {wanted!r} is neither a file nor the name of a chat template. "
            + suggest(wanted, known, f"Known: {', '.join(known)}.")
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a chat template ({error}).") from error
    if not text.strip():
        raise ConfigError(f"{path}: is empty, expected a chat template in Jinja.")
    return TemplateText(text, str(path))


def _assert_usable(tokenizer: PreTrainedTokenizerBase, text: TemplateText) -> None:
    failures: list[Exception] = []
    for trial in _TRIALS:
        try:
            written = _rendered(tokenizer, trial)
        except Exception as error:  # a template is a program: it may fail in any way
            failures.append(error)
            continue
        if _WORD not in written:
            raise ConfigError(f"{text.origin}: writes nothing of a user's message, expected a chat template.")
        return
    raise ConfigError(
        f"{template_failure(failures[0], text.origin)}.",
        hint="A chat template is Jinja over `messages`, mappings of role and content, and `add_generation_prompt`.",
    ) from failures[0]


def _written(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template puts around a user's message."""
    for trial in _TRIALS:
        try:
            return _rendered(tokenizer, trial)
        except Exception:
            continue
    return ""


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    return cast(str, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
