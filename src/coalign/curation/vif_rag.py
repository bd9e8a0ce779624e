"""VIF-RAG: a short list of rules about form becomes training data in which every reply was checked, and a benchmark scores rules and answers together.

Toward General Instruction-Following Alignment for Retrieval-Augmented Generation (arXiv 2410.09584).

    coalign run vif-rag --data rules.txt --query-data chats.jsonl --rag-data questions.jsonl --endpoint http://127.0.0.1:8000/v1
    coalign run sft --data runs/vif-rag-20260101-1 --data rag-answers.jsonl --model Qwen/Qwen3-0.6B
    coalign run vif-rag --eval-data followRAG_full.json --model runs/sft-20260101-1 --judge http://127.0.0.1:8000/v1

*Data.* The supervisor (--model, or the endpoint's) writes more rules like the seeds; rules are put together and kept where it
says that they can hold together; for each it writes programs and test cases, of which those are kept that bear each other out;
it answers plain queries and questions with passages under each rule; replies are kept that the programs accept and that it
rates as answering the query. The run folder then stands for the records (`coalign run sft --data RUN`). Written programs run in
a sandbox and nowhere else. A rule with `constraints` is checked by coalign's own verifiers, and no program is written for it.

*Benchmark* (--eval-data). FollowRAG's records, IFEval's, or prompts with `constraints`: whether rules are followed, strictly and
loosely, and whether the answer is right, by a judge or by words in common. An unknown rule is an error.

Where paper and official code differ: one accepting program is enough, as in the code (`--response-accuracy 0.5` is safer). A reply without a
readable score is dropped; the notebook fails there. Benchmark averages of a kind of question use its own rules (the official
script takes those of all for one kind), and an answer whose rating cannot be read is counted and in no mean (there: 0). Ours:
the wording of requests, the bundled rules, replies that ran out of tokens are dropped, how many composites are drawn.
Training is `coalign run sft`: paper, learning rate 7e-6, 3 epochs, full fine-tuning, mixed with plain question answering and chats.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import write_rows
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, option
from coalign.core.processes.sandbox import SandboxOptions, choose
from coalign.core.runs import Run
from coalign.curation.instructions.benchmark import read_benchmark
from coalign.curation.instructions.execution import sandboxed
from coalign.curation.instructions.queries import pairings, read_pools
from coalign.curation.instructions.report import write_data_report
from coalign.curation.instructions.rules import BUNDLED, Rule, compose, read_rules, request
from coalign.curation.instructions.scoring import BenchmarkOptions, score_benchmark
from coalign.loops.pipeline import Curated, Step, run_pipeline
from coalign.loops.rows import Row
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.distributed.leading import led

if TYPE_CHECKING:
    from coalign.curation.instructions.steps import Supervisor
    from coalign.models.types import Generator

_OF_RAG: Any = "rag_data"


@dataclass(kw_only=True)
class Config(BenchmarkOptions, SandboxOptions, ModelOptions, BackendOptions):
    """Options of `coalign run vif-rag`; --model (or the endpoint's) is the supervisor, and with --eval-data what is scored."""

    __group__ = "Method"

    data: str = option(
        BUNDLED,
        "seed rules: a text file with one a line, or rows of `rule` and perhaps `constraints` or `verifiers`; bundled: ours",
    )
    query_data: str | None = option(None, "plain queries: prompts in any form that coalign reads")
    rag_data: str | None = option(None, "questions with passages: rows of `question` and `passages`")
    requests: CountOrZero = option(10, "requests for new rules; 0: the seeds alone", group="Rules")
    rules_per_request: Count = option(
        50, "rules that a request asks for", source="official code", group="Rules"
    )
    sizes: list[Count] = option([2, 3, 4], "rules that are put together", source="paper", group="Rules")
    composites: CountOrZero = option(100, "composites of each size", group="Rules")
    chains: Fraction = option(0.25, "share of them that are chains (first, then)", group="Rules")
    composition_score: CountOrZero = option(
        5, "least score, of 10, of a composite's check", source="official code", group="Rules"
    )
    programs: Count = option(8, "replies with a program and cases, for each rule", group="Verifiers")
    min_functions: Count = option(
        3, "programs that run, below which a rule is dropped", source="official code", group="Verifiers"
    )
    min_cases: Count = option(
        10, "cases, below which a rule is dropped", source="official code", group="Verifiers"
    )
    function_accuracy: Fraction = option(
        0.8, "share of the cases that a program must get right", source="official code", group="Verifiers"
    )
    function_seconds: Positive = option(
        5.0, "seconds that one call of a program may take", source="official code", group="Verifiers"
    )
    queries_per_rule: Count = option(
        16, "plain queries for each rule", source="official code", group="Replies", only_with="query_data"
    )
    rag_per_rule: Count = option(
        4, "questions with passages for each rule", source="official code", group="Replies", only_with=_OF_RAG
    )
    query_characters: list[Count] = option(
        [20, 300],
        "fewest and most of a plain query",
        source="official code",
        group="Replies",
        only_with="query_data",
    )
    passages: Count = option(
        3, "most passages of a question", source="paper", group="Replies", only_with=_OF_RAG
    )
    samples: Count = option(4, "replies to each query under a rule", group="Replies")
    response_accuracy: Fraction = option(
        0.0,
        "share of a rule's programs that must accept a reply, besides at least one",
        source="official code",
        group="Replies",
    )
    ratings: CountOrZero = option(3, "scores of each reply; 0: replies are not rated", group="Replies")
    consistency_score: NonNegative = option(
        8.0, "the mean score, of 10, has to be above it", source="official code", group="Replies"
    )
    temperature: NonNegative = option(1.0, "of all that the supervisor writes", group="Sampling")
    top_p: Positive = option(1.0, "nucleus of the sampling", group="Sampling")
    max_new_tokens: Count = option(1024, "most tokens of a reply", group="Sampling")
    request_batch: Count = option(32, "requests at a time", group="Sampling")
    seed: int = option(0, "of draws and sampling", group="Sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        if self.eval_data is not None:
            self.refuse(_OF_DATA, "with eval_data, where no data is made")
        if len(self.query_characters) != 2 or self.query_characters[0] > self.query_characters[1]:
            raise ValueError(
                f"query_characters: {self.query_characters} is not usable, expected two numbers, low and high"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p:g} is not usable, expected above 0 and at most 1")
        if not self.requests:
            self.refuse(["rules_per_request"], "with requests: 0")
        if not self.composites:
            self.refuse(["sizes", "chains", "composition_score"], "with composites: 0")
        if not self.ratings:
            self.refuse(["consistency_score"], "with ratings: 0")
        if self.composites and (not self.sizes or min(self.sizes) < 2):
            raise ValueError(f"sizes: {self.sizes} is not usable, expected numbers of at least 2")

    def sampling(self) -> Sampling:
        """Of what the supervisor writes."""
        return Sampling(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        )


_OF_DATA = (
    "data", "query_data", "rag_data", "requests", "rules_per_request", "sizes", "composites", "chains", "composition_score",
    "programs", "min_functions", "min_cases", "function_accuracy", "function_seconds", "samples", "response_accuracy",
    "ratings", "consistency_score", "temperature", "top_p", "request_batch", "sandbox", "code_seconds", "code_memory_mb",
)  # fmt: skip


@led
def run(config: Config, run: Run) -> None:
    """Make verified records, or score a model on a benchmark.

    Raises:
        ConfigError: neither queries nor a benchmark.
        DataError: rules, queries or benchmark records that cannot be used.
        SandboxError: programs would have to be run and nothing here holds them.
        CoalignError: a step of which nothing is left.
    """
    if config.eval_data is not None:
        score_benchmark(config, run, read_benchmark(config.eval_data))
    else:
        make_data(config, run)


def make_data(config: Config, run: Run) -> None:
    """The four pipelines: `rules`, `compositions`, `verifiers`, `replies` in the run's artefacts."""
    from coalign.curation.instructions import steps

    if config.query_data is None and config.rag_data is None:
        raise ConfigError(
            "Queries are missing: give --query-data, --rag-data or both, or --eval-data to score a model."
        )
    seeds = read_rules(config.data)
    if config.requests or any(not one.constraints for one in seeds):
        _ = choose(config.sandbox)  # before anything is asked
    execute = sandboxed(config, config.function_seconds)
    pools, notes = read_pools(config)
    supervisor = _supervisor(config)
    parts: dict[str, Curated] = {}

    def made(title: str, source: Iterable[Row], by: Sequence[Step], total: int | None = None) -> list[Row]:
        parts[title] = run_pipeline(run.artefacts / title.lower(), source, by, total=total)
        return list(parts[title].rows())

    atomic = [steps.rule_row(f"seed-{number}", one) for number, one in enumerate(seeds)]
    if config.requests:
        atomic += made("Rules", _requests(config, seeds), steps.augmentation(supervisor, seeds))
    rules = list(atomic)
    if composites := _composites(config, [steps.rule_of(row) for row in atomic]):
        source = [steps.rule_row(f"composite-{number}", one) for number, one in enumerate(composites)]
        rules += made("Compositions", source, steps.composition(supervisor, config.composition_score))
    checked, unchecked = ([row for row in rules if steps.is_checked(row) == one] for one in (True, False))
    limits = {"min_functions": config.min_functions, "min_cases": config.min_cases}
    by = steps.verification(
        supervisor, config.programs, execute, **limits, min_accuracy=config.function_accuracy
    )
    if unchecked:
        written = made("Verifiers", unchecked, by, len(unchecked))
        write_rows(run.artefacts / "verifiers.jsonl", written)
        checked += written
    if not checked:
        raise _nothing_left(parts["Verifiers"], "rule has a verifier")
    pairs = list(pairings(checked, pools, config.seed))
    rated = (config.ratings, config.consistency_score)
    by = steps.replies(supervisor, config.samples, execute, config.response_accuracy, *rated)
    if not made("Replies", pairs, by, len(pairs)):
        raise _nothing_left(parts["Replies"], "reply is left")
    run.publish_records(parts["Replies"].kept)
    write_data_report(run, config, parts, supervisor.name, notes)


def _requests(config: Config, seeds: Sequence[Rule]) -> list[Row]:
    """Requests for rules, each with the seeds in an order of its own: equal ones might get one stored answer."""
    draw, texts = random.Random(f"{config.seed}/requests"), [one.text for one in seeds]
    asked = (
        request(draw.sample(texts, len(texts)), config.rules_per_request) for _ in range(config.requests)
    )
    return [{"id": f"request-{number}", "request": one} for number, one in enumerate(asked)]


def _composites(config: Config, rules: Sequence[Rule]) -> list[Rule]:
    draw = random.Random(f"{config.seed}/composites")
    return list(compose(rules, config.sizes, config.composites, draw, chains=config.chains))


def _supervisor(config: Config) -> Supervisor:
    from coalign.curation.instructions.steps import Supervisor
    from coalign.models.backends.open import open_generator

    served = config.chosen_backend == "endpoint"
    name = config.endpoint_model or str(config.endpoint) if served else config.model
    opened: Callable[[], Generator] = functools.cache(lambda: open_generator(config))
    return Supervisor(open_model=opened, sampling=config.sampling(), batch=config.request_batch, name=name)


def _nothing_left(done: Curated, what: str) -> CoalignError:
    told = done.most_reasons() or "nothing was asked"
    return CoalignError(
        f"No {what}. Most fell for: {told}.",
        hint=f"All are in {done.rejects}. Use a stronger supervisor or lower thresholds.",
    )
