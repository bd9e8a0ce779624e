"""Generation with a model behind an OpenAI-compatible server: chat completions for messages, completions for text.

Every answer goes into the cache before it is read, so a run that is killed, fails or uses up its budget goes on where
it was and pays for nothing twice. Requests run side by side; what is given back is in the order of the prompts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack, cast

from coalign.core.cache import cache_root
from coalign.core.errors import BudgetError, EndpointError
from coalign.core.progress import progress
from coalign.data.media.conversations import prompt_key
from coalign.models import types
from coalign.models.backends.endpoint_cache import AnswerCache
from coalign.models.backends.endpoint_client import REDIRECTS, EndpointClient, RefusedError
from coalign.models.backends.endpoint_format import (
    Asked,
    Prefill,
    answer_key,
    choices_of,
    delta_of,
    parse_choice,
    request_body,
)
from coalign.models.backends.endpoint_identity import Identity
from coalign.models.backends.options import BackendOptions
from coalign.models.backends.side_by_side import side_by_side
from coalign.models.generation.batching import of_prompt
from coalign.models.generation.sampling import check_sampling

logger = logging.getLogger(__name__)

PREFILL_OF_OWNER: dict[str, Prefill] = {"coalign": "continue", "vllm": "vllm"}
"""`owned_by` in a server's list of models to how it continues an assistant's turn."""


class EndpointGenerator:
    """A `Generator` over an endpoint.

    What a server makes of `seed`, of `top_k` and of a temperature of 0 is its own affair; log-probabilities are the
    server's (its distribution, its token texts), and `token_ids` stay empty.

    Args:
        options: back-end options with an endpoint.
        client: for tests.

    Attributes:
        model: the model's name on the server.
        last_stats: figures of the last call of `generate`: samples and tokens of new answers, not of kept ones.
        kept: samples of the last call that came from the cache.
        refused: replies of the last call that could not be used; they lie beside the cache for inspection.

    Raises:
        ConfigError: the key's environment variable is not set.
        EndpointError: the server cannot be reached, or no model is named and it does not have exactly one.
        MissingExtraError: httpx or tenacity is not installed.
    """

    def __init__(self, options: BackendOptions, *, client: EndpointClient | None = None) -> None:
        self._options = options
        self._client = client or EndpointClient(options)
        self.kept = self.refused = 0
        self._cache = _open_cache(options)
        self._models: list[dict[str, Any]] | None = None
        self._client.on_refused = self._keep_refused
        self._known = Identity(self._client.address, self._listed_anew)
        self.model = options.endpoint_model or self._only_model()
        self.last_stats = types.GenerationStats()
        self._dates: list[float] = []
        self._takes_n = True
        self._limit_name = "max_tokens"
        self._filtered = 0

    @property
    def description(self) -> str:
        return f"{self.model} at {self._client.address}"

    def generate(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Generating]
    ) -> types.Samples:
        """Sample `sampling.n` responses to every prompt; see `coalign.models.types.Generator.generate`.

        `on_batch` gets each prompt when its last sample is there, in the order in which prompts finish. Greedy samples
        are asked for once. Where a server gives fewer choices than `n`, the others are asked for one by one.

        Raises:
            ConfigError: a sampling option that cannot be used.
            PromptError: a picture that cannot be decoded.
            BudgetError: the budget is used up; what was under way is finished and kept first.
            EndpointError: a request failed for good; likewise.
        """
        done, on_batch, label = types.generating(**how)
        check_sampling(sampling)
        asked = self._asked(prompts)
        results: list[list[types.Generation]] = [[] for _ in prompts]
        started, spent = time.monotonic(), self._client.budget.tokens
        self._filtered, self.refused, fresh = 0, 0, 0
        self._dates.clear()
        todo = [index for index in range(len(prompts)) if index not in done]
        with progress(len(todo) * sampling.n, label, unit="sample") as bar:
            for index, samples, new in self._work([asked[one] for one in todo], todo, sampling):
                fresh += new
                results[index] = samples
                on_batch({index: samples})
                bar.advance(sampling.n)
                bar.note(self._note())
        self.kept = len(todo) * sampling.n - fresh
        self.last_stats = types.GenerationStats(
            prompts=len(todo),
            samples=fresh,
            tokens=self._client.budget.tokens - spent,
            seconds=time.monotonic() - started,
        )
        self._tell(fresh, quiet=label is None)
        return results

    def stream(self, prompts: types.Prompts, sampling: types.Sampling) -> Iterator[types.Piece]:
        """Sample one after the other and yield text as it comes; see `coalign.models.types.Streaming.stream`.

        Streams are counted against the budget of requests and are not kept.

        Raises:
            As `generate`.
        """
        check_sampling(sampling)
        for index, asked in enumerate(self._asked(prompts)):
            for sample in range(sampling.n):
                yield from self._stream_one(index, sample, asked, sampling)

    def close(self) -> None:
        """End what is under way and close connections and cache."""
        self._client.close()
        if self._cache:
            self._cache.close()

    @property
    def identity(self) -> str:
        """What is known of the model behind its name; see `coalign.models.backends.endpoint_identity`."""
        if self._options.endpoint_identity != "auto":
            return self._options.endpoint_identity
        return self._known.now()

    def _tell(self, fresh: int, *, quiet: bool) -> None:
        """Say what came from the cache, and what was amiss."""
        if self.kept and not quiet:
            days = sorted({time.strftime("%Y-%m-%d", time.localtime(one)) for one in self._dates})
            print(
                f"{self.kept} from the cache of {' to '.join(dict.fromkeys([days[0], days[-1]]))}, {fresh} asked",
                file=sys.stderr,
                flush=True,
            )
        if self.refused:
            place = f" and lie in {self._cache.refused}" if self._cache else ""
            logger.warning("%d replies could not be used, were asked for again%s.", self.refused, place)
        if self._filtered:
            logger.warning("%d samples were cut short by the server's content filter.", self._filtered)

    def _keep_refused(self, path: str, body: Any, reply: Any, problem: str) -> None:
        """Count a reply that cannot be used, and keep it apart."""
        self.refused += 1
        if self._cache:
            shown = reply if isinstance(reply, dict) else self._client.masked(str(reply))
            self._cache.keep_refused(
                address=self._client.address, path=path, problem=problem, request=body, reply=shown
            )

    # -- prompts side by side ------------------------------------------------------------------------------------

    def _work(
        self, asked: list[Asked], indices: list[int], sampling: types.Sampling
    ) -> Iterator[tuple[int, list[types.Generation], int]]:
        """(prompt index, its samples, how many of them are new) as prompts finish; failures at the end."""
        failure: BaseException | None = None
        pairs = list(zip(indices, asked, strict=True))
        work = side_by_side(
            pairs, lambda pair: self._samples(pair[1], sampling), self._options.endpoint_concurrency
        )
        for (index, _), outcome in work:
            if not isinstance(outcome, BaseException):
                yield (index, *outcome)
            elif failure is None or isinstance(failure, BudgetError):
                failure = _named(outcome, index)
        if failure is not None:
            raise failure

    def _samples(self, asked: Asked, sampling: types.Sampling) -> tuple[list[types.Generation], int]:
        """All samples of a prompt, kept ones first; and how many had to be asked for."""
        count = sampling.rows
        found: dict[int, dict[str, Any]] = {}
        if self._cache:
            for sample in range(count):
                kept = self._cache.get(answer_key(asked, sampling, sample))
                if kept is not None:
                    found[sample] = kept[0]
                    self._dates.append(kept[1])
        new = 0
        while len(found) < count:
            first = next(sample for sample in range(count) if sample not in found)
            until = next((one for one in range(first, count) if one in found), count)
            wanted = until - first if self._takes_n else 1
            choices = self._ask(asked, sampling, first, wanted)
            if len(choices) < wanted:
                self._takes_n = False
            answers = dict(zip(range(first, first + wanted), choices, strict=False))
            if self._cache:
                self._cache.put({answer_key(asked, sampling, one): answers[one] for one in answers})
            found.update(answers)
            new += len(answers)
        samples = [self._parsed(found[sample], sampling) for sample in range(count)]
        copies = sampling.n // count
        return samples * copies, new * copies

    def _ask(self, asked: Asked, sampling: types.Sampling, first: int, count: int) -> list[dict[str, Any]]:
        """The choices of one request, each with `n_tokens` when the server counted it alone."""
        body = request_body(asked, sampling, first, count)
        tries, problem = self._options.endpoint_retries + 1, ""
        for _ in range(tries):
            answer = self._post(asked.path, body)
            try:
                choices = choices_of(answer, sampling)
            except ValueError as error:
                problem = str(error)
                self._keep_refused(asked.path, body, answer, problem)
                self._client.retries += 1
                with contextlib.suppress(EndpointError):
                    self._client.budget.take_tokens(answer.get("usage"))
                continue
            usage = answer.get("usage") or {}
            self._client.budget.take_tokens(usage)
            self._assert_same_model(answer.get("system_fingerprint"))
            counted = usage.get("completion_tokens") if len(choices) == 1 else None
            return [{**one, "n_tokens": counted} for one in choices[:count]]
        raise EndpointError(
            f"{self._client.address}/{asked.path}: the answer cannot be used: {problem}, {tries} times in a row."
        )

    def _assert_same_model(self, fingerprint: str | None) -> None:
        """Refuse an answer of another model than the one that was there at first, where the server says so."""
        first = self._own().get("fingerprint")
        if first and fingerprint and fingerprint != first:
            raise EndpointError(
                f"{self._client.address} was started again with another model while it was asked.",
                hint="Run the same command again: what the first model said is kept for it alone.",
            )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._explained(path):
            try:
                return self._client.post(path, self._renamed(body))
            except RefusedError as error:
                if self._limit_name != "max_tokens" or "max_completion_tokens" not in str(error):
                    raise
            self._limit_name = "max_completion_tokens"
            return self._client.post(path, self._renamed(body))

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """A refusal for good as an error that says what to do."""
        try:
            yield
        except RefusedError as error:
            place = f"{self._client.address}/{path}"
            raise EndpointError(f"{place}: {error}.", hint=_advice(error.status)) from error

    def _renamed(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` with the name that this server has for the limit on new tokens."""
        return {self._limit_name if name == "max_tokens" else name: value for name, value in body.items()}

    def _parsed(self, choice: dict[str, Any], sampling: types.Sampling) -> types.Generation:
        if choice.get("finish_reason") == "content_filter":
            self._filtered += 1
        return parse_choice(choice, sampling, choice.get("n_tokens"))

    def _note(self) -> str:
        budget = self._client.budget
        again = f", {self._client.retries} repeated" if self._client.retries else ""
        return f"{budget.requests} requests, {budget.tokens} tokens{again}"

    # -- one stream ----------------------------------------------------------------------------------------------

    def _stream_one(
        self, index: int, sample: int, asked: Asked, sampling: types.Sampling
    ) -> Iterator[types.Piece]:
        body = self._renamed(request_body(asked, sampling, sample, 1))
        text, finish, logprobs = "", None, []
        with self._explained(asked.path):
            for event in self._client.post_streaming(asked.path, body):
                try:
                    piece, ended, likely = delta_of(event)
                except ValueError as error:
                    self._keep_refused(asked.path, body, event, str(error))
                    place = f"{self._client.address}/{asked.path}"
                    raise EndpointError(f"{place}: an event cannot be used: {error}.") from error
                finish = ended or finish
                logprobs.append(likely)
                text += piece
                if piece:
                    yield types.Piece(index, sample, piece)
        whole = {"text": text, "finish_reason": finish, "logprobs": _joined(logprobs)}
        yield types.Piece(index, sample, "", parse_choice(whole, sampling, None))

    # -- what is asked -------------------------------------------------------------------------------------------

    def _asked(self, prompts: types.Prompts) -> list[Asked]:
        prefill: Prefill = self._prefill() if any(map(types.is_prefilled, prompts)) else "off"
        seen: Counter[str] = Counter()
        asked, identity = [], self.identity
        for index, prompt in enumerate(prompts):
            with of_prompt(index, prompt):
                text = json.dumps(prompt_key(prompt), sort_keys=True)
            asked.append(Asked(self._client.address, self.model, prompt, seen[text], prefill, identity))
            seen[text] += 1
        return asked

    def _prefill(self) -> Prefill:
        """How this server continues an assistant's turn.

        Raises:
            EndpointError: it is not known to.
        """
        choice = self._options.endpoint_prefill
        if choice == "auto":
            choice = PREFILL_OF_OWNER.get(str(self._own().get("owned_by")), "off")
        if choice == "off":
            raise EndpointError(
                f"{self._client.address} is not known to continue an assistant's turn, which this needs.",
                hint="If it does, say how: --endpoint-prefill continue (a last assistant message is enough) or vllm.",
            )
        return cast(Prefill, choice)

    def _only_model(self) -> str:
        names = [str(one.get("id")) for one in self._listed()]
        if len(names) != 1:
            listed = ", ".join(names[:20]) or "none"
            raise EndpointError(
                f"{self._client.address} lists {len(names)} models: {listed}.",
                hint="Choose one with --endpoint-model.",
            )
        return names[0]

    def _own(self) -> dict[str, Any]:
        """What the server lists of the model; empty where it lists nothing."""
        try:
            return next((one for one in self._listed() if one.get("id") == self.model), {})
        except EndpointError as error:
            logger.info("%s: the list of models cannot be had (%s)", self._client.address, error)
            self._models = []
            return {}

    def _listed_anew(self) -> dict[str, Any]:
        self._models = None
        return self._own()

    def _listed(self) -> list[dict[str, Any]]:
        if self._models is None:
            with self._explained("models"):
                listed = self._client.get("models").get("data")
            self._models = [
                one
                for one in (listed if isinstance(listed, list) else [])
                if isinstance(one, dict) and isinstance(one.get("id"), str)
            ]
        return self._models


def _open_cache(options: BackendOptions) -> AnswerCache | None:
    if options.endpoint_cache == "off":
        return None
    automatic = options.endpoint_cache == "auto"
    return AnswerCache(
        cache_root() / "endpoint.sqlite" if automatic else Path(options.endpoint_cache).expanduser()
    )


def _named(error: BaseException, index: int) -> BaseException:
    """The error with the prompt that it is about; a budget is about none."""
    if isinstance(error, EndpointError) and not isinstance(error, BudgetError):
        return EndpointError(f"prompt {index}: {error.message}", error.hint)
    return error


def _advice(status: int) -> str:
    advice = {
        401: "Set the key's environment variable (--endpoint-key-variable).",
        403: "Set the key's environment variable (--endpoint-key-variable).",
        404: "Is the address right (it usually ends in /v1), and the model's name?",
        429: "The account's quota is used up. Every answer so far is kept.",
        **dict.fromkeys(
            REDIRECTS, "Redirects are not followed: the key would go along. Give the address itself."
        ),
    }
    return advice.get(status, "Every answer so far is kept.")


def _joined(parts: list[Any]) -> Any:
    """Log-probabilities of a stream's events in one."""
    parts = [one for one in parts if isinstance(one, dict)]
    if not parts:
        return None
    names = {name for one in parts for name, value in one.items() if isinstance(value, list)}
    return {name: [entry for one in parts for entry in one.get(name) or []] for name in names}
