"""Options of everything that generates text: which back end does it, and how to reach it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from coalign.core.errors import ConfigError
from coalign.core.options import Count, CountOrZero, OptionGroup, Positive, option, options_of
from coalign.core.secrets import hold


def is_address(name: str) -> bool:
    """Whether a model is named by the address of a server."""
    return name.startswith(("http://", "https://"))


def assert_address(address: str) -> None:
    """Refuse what is not the address of a server, and addresses that hold a secret: options are written to files.

    Raises:
        ValueError: naming what is wrong, without the secret.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ValueError("endpoint: expected a port number, as in http://127.0.0.1:8000/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("endpoint: expected an address such as http://127.0.0.1:8000/v1")
    if "@" in address or parts.query or parts.fragment:
        raise ValueError(
            f"endpoint: the address of {parts.hostname} holds a user, a password or what follows ? or #; expected "
            "scheme, host and path alone, with the key in an environment variable (endpoint_key_variable)"
        )


_WORDS = re.compile(r"_*([A-Z][A-Z0-9]{0,12}|[a-z][a-z0-9]{0,12})(_+[A-Za-z0-9]{1,13})*")
_MOST_DIGITS = 4


def names_a_variable(name: str) -> bool:
    """Whether this can be an environment variable's name: one that is set, or words as names have them. A key that
    is given in a name's place must not come into messages and files.
    """
    if name in os.environ:
        return True
    one_case = name in (name.upper(), name.lower())
    return bool(_WORDS.fullmatch(name)) and one_case and sum(map(str.isdigit, name)) <= _MOST_DIGITS


_SERVER = {"backend": "vllm-server"}


@dataclass(kw_only=True)
class VllmServerOptions(OptionGroup):
    """How a vLLM server of a command or a loop is started. A subclass has the option `backend`."""

    __group__ = "Back end"

    vllm_command: str | None = option(
        None,
        "the Python that has vLLM, such as /opt/vllm/bin/python, or a command that serves; by default this Python, else the one "
        "of `vllm` on the path",
        only_with=_SERVER,
    )
    vllm_argument: list[str] = option(
        [],
        "a further argument of vLLM's server, such as --vllm-argument=--max-model-len=4096; may be given several times",
        split=False,
        only_with=_SERVER,
    )
    vllm_start_seconds: Positive = option(900.0, "how long it may take until it answers", only_with=_SERVER)


@dataclass(kw_only=True)
class PolicyBackendOptions(VllmServerOptions):
    """What samples from a model that is trained: this process, or a vLLM server that gets the weights as they change."""

    backend: Literal["transformers", "vllm-server"] = option(
        "transformers",
        "what samples; vllm-server: vLLM in a process of its own, started and ended here, which gets the weights after every change",
        group="Back end",
    )


@dataclass(kw_only=True)
class BackendOptions(VllmServerOptions):
    """Where text is generated. The key of an endpoint comes from the environment alone and is never written."""

    __group__ = "Back end"

    backend: Literal["auto", "transformers", "vllm", "vllm-server", "endpoint"] = option(
        "auto",
        "what generates; auto: the endpoint where --endpoint is given, else transformers; vllm-server: vLLM in a process of its "
        "own, started and ended here",
    )
    generation_precision: Literal["auto", "float32", "bfloat16", "int4"] = option(
        "auto",
        "number format in which a model on this machine decodes; int4: blocks of 32 4-bit weights, the fastest for one "
        "answer at a time; how far it leads away is measured and said; auto: --dtype, or what this device samples fastest in",
    )
    endpoint: str | None = option(
        None, "base address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
    )
    endpoint_model: str | None = option(
        None, "the model's name on the server; by default the only one that it lists"
    )
    endpoint_key_variable: str = option(
        "auto",
        "environment variable that holds the key; auto: COALIGN_API_KEY if it is set, and OPENAI_API_KEY for "
        "api.openai.com alone",
    )
    endpoint_concurrency: Count = option(8, "requests under way at a time")
    endpoint_timeout: Positive = option(120.0, "seconds to wait for an answer to one request")
    endpoint_retries: CountOrZero = option(
        8, "further tries of a request that failed for a reason that may pass"
    )
    endpoint_max_requests: Count | None = option(
        None, "stop, with what is there kept, before more requests than this are sent"
    )
    endpoint_max_tokens: Count | None = option(
        None, "stop, with what is there kept, once the server counted so many tokens, prompts included"
    )
    endpoint_cache: str = option(
        "auto",
        "SQLite file of answers that were paid for; auto: endpoint.sqlite in coalign's cache; off: none",
    )
    endpoint_identity: str = option(
        "auto",
        "what answers are kept under beside the model's name; auto: what the server says of the model, on this machine "
        "with the start of the server, so that another model under the name is asked anew",
    )
    endpoint_prefill: Literal["auto", "continue", "vllm", "off"] = option(
        "auto",
        "how the server is asked to continue an assistant's turn; continue: a last assistant message is enough; "
        "vllm: with its continue_final_message; auto: as the server says of itself, else refused; off: refused",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chosen_backend != "endpoint":
            ours = [one.name for one in options_of(BackendOptions) if one.name.startswith("endpoint")]
            self.refuse(ours, f"with backend: {self.chosen_backend}", advice="give endpoint")
        elif not self.endpoint:
            raise ValueError("backend: endpoint needs the server's address: endpoint")
        if self.generation_precision != "auto" and self.chosen_backend != "transformers":
            raise ValueError(f"generation_precision: has no effect with backend: {self.chosen_backend}")
        if self.endpoint:
            assert_address(self.endpoint)
        if not names_a_variable(self.endpoint_key_variable):
            hold(self.endpoint_key_variable)
            raise ValueError(
                "endpoint_key_variable: expected the name of an environment variable, such as OPENAI_API_KEY; what was "
                "given looks like a key, which belongs into that variable"
            )

    @property
    def chosen_backend(self) -> Literal["transformers", "vllm", "vllm-server", "endpoint"]:
        """The back end, with `auto` decided."""
        if self.backend != "auto":
            return self.backend
        return "endpoint" if self.endpoint else "transformers"


def assert_spreadable(backend: BackendOptions) -> None:
    """Refuse back ends that a pool of workers would not make faster.

    Raises:
        ConfigError: an endpoint, whose requests are under way together, or vLLM, which has workers of its own.
    """
    if backend.chosen_backend != "transformers":
        raise ConfigError(
            f"--engine ray goes with a model on this machine, and the back end is {backend.chosen_backend}.",
            hint="Leave --engine out: requests are under way together there.",
        )
