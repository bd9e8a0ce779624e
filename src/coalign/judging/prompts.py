"""What a judge is asked: Jinja templates, the shipped ones or the user's own, filled with the material to judge.

A template has a block `user`, and may have blocks `system` and `assistant` (the beginning of the judge's reply); one
without blocks is the user's message as a whole. What may be used in it stands at its head (`judge-pair.j2`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError
from coalign.data.media.conversations import MARK, named_pictures, pictures_of, showing
from coalign.data.records import Message, Messages, Shown
from coalign.judging.protocol import JudgeItem, Rubric, Scale

if TYPE_CHECKING:
    import jinja2

ASSETS = Path(__file__).parent / "assets"
TEMPLATES = {
    "pair": ASSETS / "judge-pair.j2",
    "rate": ASSETS / "judge-rate.j2",
    "rank": ASSETS / "judge-rank.j2",
    "list": ASSETS / "judge-list.j2",
}
"""What is judged to the template that is shipped for it."""

_ROLES = ("system", "user", "assistant")
_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True)
class JudgeTemplate:
    """A template, ready to be filled. Make one with `load_template`.

    Attributes:
        source: its text.
        names: the variables that it uses.
    """

    source: str
    names: frozenset[str]
    _template: jinja2.Template

    def render(
        self,
        item: JudgeItem,
        *,
        rubric: Rubric | None = None,
        scale: Scale | None = None,
        form: str = "relation",
        explain: bool = True,
        bare: bool = False,
        demonstrations: Sequence[Mapping[str, Any]] = (),
    ) -> Messages:
        """The messages that ask about `item`.

        Args:
            demonstrations: of rankings: `question`, `answers` as shown, and `order`, their numbers best first.

        Raises:
            ConfigError: the template needs something that there is not, or gives an empty message.
        """
        import jinja2

        scale = scale or Scale()
        values: dict[str, Any] = {
            "question": question_text(item.prompt),
            "messages": item.prompt,
            "answers": list(item.responses),
            "parts": list(zip(*item.parts, strict=True)),
            "reference": item.reference,
            "rubric": item.rubric or rubric,
            "scale": {"low": _plain(scale.low), "high": _plain(scale.high)},
            "form": form,
            "explain": explain,
            "bare": bare,
            "demonstrations": demonstrations,
            "mark": mark_of(
                item, [text for one in demonstrations for text in (one["question"], *one["answers"])]
            ),
        }
        blocks = [one for one in _ROLES if one in self._template.blocks]
        try:
            texts = {role: self._block(role, values) for role in blocks} or {
                "user": self._template.render(values)
            }
        except jinja2.TemplateError as error:
            raise ConfigError(f"{self._template.filename}: cannot be filled: {error}.") from error
        if not texts.get("user", "").strip():
            raise ConfigError(f"{self._template.filename}: gives an empty message to item {item.id}.")
        made = [Message(role=role, content=text.strip()) for role, text in texts.items() if text.strip()]
        return _shown(made, pictures_of(item.prompt))

    def _block(self, role: str, values: dict[str, Any]) -> str:
        return "".join(self._template.blocks[role](self._template.new_context(values)))


def load_template(kind: Literal["pair", "rate", "rank", "list"], path: Path | None = None) -> JudgeTemplate:
    """The shipped template for what is judged, or the one in `path`.

    Raises:
        ConfigError: it cannot be read, is not a template, or does not show the answers.
    """
    import jinja2
    from jinja2 import meta
    from jinja2.sandbox import SandboxedEnvironment

    file = path or TEMPLATES[kind]
    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        source = file.read_text(encoding="utf-8")
        template = environment.from_string(source)
        template.filename = str(file)
        names = meta.find_undeclared_variables(environment.parse(source))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the template cannot be read ({error}).") from error
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"{file}:{error.lineno}: not a template: {error.message}.",
            hint=f"`coalign judge --print-template {kind}` shows one that works.",
        ) from error
    if "answers" not in names:
        raise ConfigError(
            f"{file}: the template never shows the answers (the variable `answers`).",
            hint=f"`coalign judge --print-template {kind}` shows one that works.",
        )
    return JudgeTemplate(source, frozenset(names), template)


def _shown(messages: Messages, pictures: Sequence[Shown]) -> Messages:
    """The messages with the pictures of the request: where it stands in them, or, where a template shows it in part or
    more than once, before the user's first words.
    """
    if not pictures:
        return messages
    if sum(one["content"].count(MARK) for one in messages) != len(pictures):
        first = next(place for place, one in enumerate(messages) if one["role"] == "user")
        messages = [
            Message(
                role=one["role"],
                content=MARK * len(pictures) * (place == first) + named_pictures(one["content"]),
            )
            for place, one in enumerate(messages)
        ]
    return showing(messages, pictures)


def question_text(prompt: Messages) -> str:
    """A prompt as text: the only message as it is, a conversation with its speakers named."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(
        f"{_SPEAKERS.get(one['role'], one['role'].capitalize())}: {one['content']}" for one in prompt
    )


def mark_of(item: JudgeItem, beside: Sequence[str] = ()) -> str:
    """Eight letters that depend on everything that is shown, and not on the order of the responses or of what is shown
    `beside` them.

    No text can hold a hash of itself except by chance, so no answer can close its own frame.
    """
    shown = [question_text(item.prompt), item.reference or "", *sorted(item.responses), *sorted(beside)]
    return hashlib.sha256("\0".join(shown).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
