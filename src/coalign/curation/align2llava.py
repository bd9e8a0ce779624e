"""Align^2LLaVA: the tenth of a set of machine-made visual instructions that people would choose, in the words of the model to tune.

Align^2LLaVA: Cascaded Human and Large Language Model Preference Alignment for Multi-modal Instruction Curation
(arXiv 2409.18541, Findings of ACL 2025).

    coalign run align2llava --annotations ranked.jsonl --data llava_instruct_158k.json --image-folder coco/ --model lmsys/vicuna-7b-v1.5
    coalign run align2llava --rewards runs/align2llava-1 --data more.json --alpha 0.2
    coalign run align2llava --annotations ranked.jsonl

People rank questions about a picture, and answers to one of them. Two rewards learn that: one of picture and question, which
never sees an answer, and one of picture, question and answer. The corpus goes through both: within each type of instruction the
best share of the conversations stays by all their questions together; then each turn takes its best answer, and the best
share stays by the mean of these. What is left the inner language model says in its own words, without seeing the picture: a
rewriting is taken where it has the form, a guard of facts finds nothing lost or added (numbers, colours, places, names), and
the reviewer prefers it in both orders. The run stands for the result in LLaVA's form (`curated.json`), with the rewards and
the original texts beside it. Without annotations and without `--rewards` nothing is cut, and all is rewritten.

The rewards follow the authors' code: all strict pairs, ties give nothing, corrupted copies beside candidates, a score at the
last token of an image-text-to-text model through an adapter (`--reward-model llava-hf/llava-1.5-7b-hf`). With an image-text
encoder such as CLIP a small head learns on features instead, which takes minutes and is ours. The code spells corrupted
questions letter by letter, an error that is not followed. Rewriting and review are not in the code: their wording, the
guard, both orders and the sampling are reconstructions. LLaVA-like models and CLIP were run here on random weights and
in a small drawn world alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import write_json
from coalign.core.options import CountOrZero, Seed, option
from coalign.core.runs import Run, is_main_process, model_folder
from coalign.curation.visual_instructions.annotations import read_annotations
from coalign.curation.visual_instructions.conversations import Conversations, llava_record
from coalign.curation.visual_instructions.learning import learn_rewards
from coalign.curation.visual_instructions.options import Cascade, RewardLearning, RewritingOptions
from coalign.curation.visual_instructions.report import write_curation_report
from coalign.curation.visual_instructions.steps import cascade_steps, rewriting_steps, usable
from coalign.loops.pipeline import Curated, run_pipeline

if TYPE_CHECKING:
    from torch import nn

    from coalign.curation.visual_instructions.rewards import Reads

RESULT = "curated.json"


@dataclass(kw_only=True)
class Config(RewardLearning, Cascade, RewritingOptions):
    """Options of `coalign run align2llava`."""

    __group__ = "Method"

    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at records that cannot be used, or count them"
    )
    examples: CountOrZero = option(12, "records of either side shown in the report", only_with="data")
    seed: Seed = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.annotations and self.rewards is not None:
            raise ValueError("rewards and annotations exclude each other: rewards are learnt, or were before")
        rewriting = {
            "model", "served", "temperature", "top_p", "max_new_tokens", "request_template", "facts", "review", "reviewer",
            "judge_readout", "likelihood", "request_batch",
        }  # fmt: skip
        if not self.data:
            self.refuse(rewriting, "without data")
        elif self.rewrite == "none":
            self.refuse(rewriting, "with rewrite: none")
        if self.data and not self.annotations and self.rewards is None:
            self.refuse(
                ("alpha", "beta", "unit", "per_type", "most_of_picture", "score_batch"),
                "without rewards: nothing is cut",
            )
            if self.rewrite == "none":
                raise ValueError("without rewards and with rewrite: none there is nothing to do")


def run(config: Config, run: Run) -> None:
    """Learn both rewards, where there are annotations; choose and rewrite, where there is a corpus; report.

    Raises:
        DataError: annotations or records that cannot be used.
        ModelError: a model that cannot be loaded, or no rewards where some are named.
        ConfigError: neither of both, or a template or a list of words that cannot be used.
    """
    if not config.annotations and not config.data:
        raise ConfigError(
            "There is nothing to do: neither --annotations (what people say) nor --data (instructions to choose from) is given."
        )
    skip = config.on_bad_record
    found = read_annotations(config.annotations, image_folder=config.image_folder, on_bad_record=skip)
    told = learn_rewards(config, run, found) if config.annotations else {}
    if not is_main_process():
        return
    done = curate(config, run) if config.data else None
    write_curation_report(run, config, told, done, problems=found.problems)


def curate(config: Config, run: Run) -> Curated:
    """The corpus through the cascade and the rewriting; what is left is what the run stands for.

    Raises:
        CoalignError: nothing is left.
    """
    cuts = bool(config.annotations) or config.rewards is not None
    rewriting = rewriting_steps(config, run)
    source = Conversations(
        config.data,
        image_folder=config.image_folder,
        on_bad_record=config.on_bad_record,
        limit=config.limit,
        single_turns=config.unit == "answer",
    )
    steps = cascade_steps(config, lambda side: open_reward(config, run, side)) if cuts else []
    done = run_pipeline(run.artefacts / "curation", source, [usable(), *steps, *rewriting])
    rows = [llava_record(row) for row in done.rows()]
    if not rows:
        raise CoalignError(
            f"No record is left. Most fell for: {done.most_reasons() or 'there was none'}.",
            hint=f"All are in {done.rejects}. Of few records a share can be none: raise --alpha and --beta.",
        )
    write_json(run.artefacts / RESULT, rows)
    run.publish_records(run.artefacts / RESULT)
    return done


def open_reward(config: Config, run: Run, side: str) -> tuple[nn.Module, Reads]:
    """The reward of `question` or of `answer`: this run's, or that of `--rewards`.

    Raises:
        ModelError: it is not there.
    """
    from coalign.curation.visual_instructions.rewards import load_reward

    if config.rewards is None:
        return load_reward(run.model, side, device=config.device)
    return load_reward(model_folder(config.rewards), side, device=config.device)
