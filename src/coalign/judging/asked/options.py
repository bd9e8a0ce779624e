"""Who is asked in text alone: a language model by one name (a hub id, a folder, a server), and options of judges so named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.options import Count, Fraction, OptionGroup, option
from coalign.judging.rewards.specs import parse_reward
from coalign.judging.store import Deferred
from coalign.models.backends.open import open_named
from coalign.models.backends.options import is_address
from coalign.models.types import Generator


@dataclass(frozen=True)
class AskedModel:
    """A language model that is loaded when it is first asked something new.

    Attributes:
        name: what reports call it.
        identity: what its replies depend on besides the request.
    """

    generator: Generator
    name: str
    identity: dict[str, Any]


def asked_model(name: str, served: str | None = None, *, device: str = "auto") -> AskedModel:
    """The model of a name.

    Args:
        name: `default`, a hub id, a folder, or the address of an OpenAI-compatible server.
        served: the model's name on that server; None: the only one that it lists.
        device: of a local model.

    Raises:
        ModelError: there is no such local model.
    """
    from coalign.models.files.identity import model_identity
    from coalign.models.options import ModelOptions

    server = name if is_address(name) else None
    identity = {"endpoint": server} if server else {"identity": model_identity(ModelOptions(model=name))}
    generator = Deferred(lambda: open_named(served if server else name, endpoint=server, device=device))
    return AskedModel(generator, served or name, identity)


@dataclass(kw_only=True)
class AskedJudgeOptions(OptionGroup):
    """Who judges: a language model that is asked in text alone, or a reward in its place."""

    __group__ = "Judge"
    __may_change__ = ("max_failures",)

    judge: str = option(
        "default",
        "a language model that is asked in text alone: `default`, a hub id, a folder, or the address of an "
        "OpenAI-compatible server",
    )
    judge_served: str | None = option(None, "the model's name on that server; by default its only one")
    judge_template: Path | None = option(None, "your own request to the judge, a Jinja file")
    judge_max_new_tokens: Count = option(512, "most tokens of a reply; more for a model that thinks first")
    reward: list[str | dict[str, Any]] = option(
        [], "judge by a reward (NAME:ARGUMENTS, such as model:PATH) in place of a language model", split=False
    )
    max_failures: Fraction = option(0.2, "share of verdicts that may be missing before the run stops")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward:
            self.refuse(
                ["judge", "judge_served", "judge_template", "judge_max_new_tokens"],
                "with reward, which is no language model",
            )
            for one in self.reward:
                parse_reward(one)  # a mistake is found before anything is loaded or written
        if self.judge_served is not None and not is_address(self.judge):
            raise ValueError("judge_served names a model of a server: give its address as judge")
