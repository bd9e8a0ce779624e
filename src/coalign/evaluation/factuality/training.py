"""Unified training of an alignment function on records of many tasks: one trainer, three heads, optional masked tokens."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.evaluation.factuality.model import IGNORED, AlignmentModel, joint_sums, weigh
from coalign.evaluation.factuality.pair_scoring import EncodedPair, PairEncoder, pad
from coalign.evaluation.factuality.records import AlignmentRecord, LabelledPair, assert_usable, labelled_pair
from coalign.training.callbacks import ProgressBar, RunEvents
from coalign.training.checkpoints import EpochShuffle, WholeCheckpoints, resume_point
from coalign.training.fit import training_arguments
from coalign.training.processes import own_batches

HEADS = ("mlm", "bin", "tri", "reg")
CLASSIFIERS = ("bin", "tri")
MASKED_SHARE = 0.15


@dataclass(kw_only=True)
class EncoderTraining:
    """How an encoder is trained."""

    __group__ = "Training"

    learning_rate: Positive = option(1e-5, "peak learning rate", source="official code")
    epochs: Positive = option(3.0, "passes over the training records", source="official code")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(32, "pairs in one forward pass of one process", source="official code")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    schedule: str = option("linear", "learning-rate schedule of Transformers", source="official code")
    warmup_ratio: Fraction = option(
        0.06, "share of the steps with rising learning rate", source="official code"
    )
    weight_decay: NonNegative = option(0.1, "AdamW weight decay", source="official code")
    adam_epsilon: Positive = option(1e-6, "AdamW epsilon", source="official code")
    max_grad_norm: Positive = option(1.0, "gradient clipping")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    max_length: Count = option(512, "most tokens of a pair", source="official code")
    mlm: bool = option(
        False, "also predict masked tokens, with weight 0.5", source="official code: off; on in the paper"
    )
    augmentation: Fraction = option(
        0.05, "chance of a pair of a text with itself, and of swapped texts", source="official code"
    )
    held_out: Fraction = option(0.05, "share of the records held out", source="official code")
    eval_steps: Count | None = option(None, "evaluate every so many steps; by default once an epoch")
    logging_steps: Count = option(10, "log every so many steps")
    save_steps: CountOrZero = option(500, "write a checkpoint every so many steps; 0 writes none")
    report_to: list[str] = option([], "also log to tensorboard or wandb")
    seed: int = option(2022, "seed of everything random", source="official code")


class AlignmentData(Dataset[tuple[LabelledPair, int]]):
    """Records as pairs; which pair a record gives depends on seed, epoch and record alone.

    Item `epoch * size + index` is record `index` as it is in that epoch, with the seed of its masked tokens.
    """

    def __init__(self, records: Sequence[AlignmentRecord], seed: int, augmentation: float) -> None:
        self.records = list(records)
        self.seed = seed
        self.augmentation = augmentation
        self._of_task: dict[str, list[AlignmentRecord]] = defaultdict(list)
        for one in self.records:
            self._of_task[one.task].append(one)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int) -> tuple[LabelledPair, int]:
        record = self.records[key % len(self.records)]
        draw = random.Random(f"{self.seed}/{key}")
        pair = labelled_pair(record, draw, others=self._of_task[record.task], augmentation=self.augmentation)
        return pair, draw.getrandbits(62)


class KeyedShuffle(EpochShuffle):
    """`EpochShuffle` whose items say their epoch, as `AlignmentData` takes them."""

    def __iter__(self) -> Any:
        offset = self.epoch * self.size
        return (offset + index for index in super().__iter__())


@dataclass
class PairCollator:
    """Pairs as inputs and labels; masked tokens are drawn from each pair's own seed.

    Of the masked tokens 80 % become the mask token, 10 % a random one, 10 % stay.
    """

    encoder: PairEncoder
    masked: bool = False

    def __call__(self, items: Sequence[tuple[LabelledPair, int]]) -> dict[str, Any]:
        tokenizer = self.encoder.tokenizer
        encoded = self.encoder.encode([(one.text_a, one.text_b) for one, _ in items])
        self.encoder.forget()
        with_types = "token_type_ids" in tokenizer.model_input_names
        inputs = pad(encoded, tokenizer.pad_token_id, with_types=with_types)
        labels = {
            head: torch.tensor([_label(one, head) for one, _ in items], dtype=kind)
            for head, kind in (("bin", torch.long), ("tri", torch.long), ("reg", torch.float))
        }
        if self.masked:
            labels["mlm"] = self._mask(inputs, encoded, [seed for _, seed in items])
        return {"inputs": inputs, "pair_labels": labels, "truncated": sum(one.truncated for one in encoded)}

    def _mask(self, inputs: dict[str, Tensor], encoded: Sequence[EncodedPair], seeds: list[int]) -> Tensor:
        tokenizer, ids = self.encoder.tokenizer, inputs["input_ids"]
        special = set(tokenizer.all_special_ids)
        labels = torch.full_like(ids, IGNORED)
        for row, (pair, seed) in enumerate(zip(encoded, seeds, strict=True)):
            draw = random.Random(seed)
            for place, token in enumerate(pair.ids):
                if token in special or draw.random() >= MASKED_SHARE:
                    continue
                labels[row, place] = token
                kind = draw.random()
                if kind < 0.9:
                    other = tokenizer.mask_token_id if kind < 0.8 else draw.randrange(len(tokenizer))
                    ids[row, place] = other
        return labels


def _label(pair: LabelledPair, head: str) -> float:
    return pair.label if pair.head == head else IGNORED


class PairTrainer(WholeCheckpoints, Trainer):
    """Trains an `AlignmentModel`.

    A head's loss is a mean over its rows of the whole optimizer step, over all micro-batches and processes, so the
    update does not depend on how the step is cut.
    """

    def __init__(self, model: AlignmentModel, args: TrainingArguments, **options: Any) -> None:
        super().__init__(model=model, args=args, **options)
        self.model_accepts_loss_kwargs = True
        self._sums = torch.zeros(2, len(HEADS), dtype=torch.float64)
        self.truncated = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data: Any = train_dataset if train_dataset is not None else self.train_dataset
        return KeyedShuffle(len(data), self.args.seed)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Rows of each head in the optimizer step, over all processes."""
        counts = torch.tensor([_counts(one["pair_labels"]) for one in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(counts, reduction="sum")  # type: ignore[return-value]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This process's share of the step's loss, times the number of processes (DDP averages gradients)."""
        logits = model(**inputs["inputs"])
        sums, counts = joint_sums(logits, inputs["pair_labels"])
        if model.training:
            self.truncated += int(inputs["truncated"])
            self._sums += torch.stack([sums.detach(), counts]).double().cpu()
        total = num_items_in_batch if isinstance(num_items_in_batch, Tensor) else counts
        loss = weigh(sums, total) * self.accelerator.num_processes
        return (loss, logits) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss of every head, and the accuracy of the two classifiers, over the held-out records."""
        model: Any = self.model
        model.eval()
        sums = torch.zeros(2, len(HEADS))
        right = torch.zeros(len(HEADS))
        with torch.no_grad():
            for batch, counts in own_batches(
                cast(Any, eval_dataset if eval_dataset is not None else self.eval_dataset),
                self.args.per_device_eval_batch_size,
                self.data_collator,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            ):
                prepared: Any = self._prepare_inputs(batch)
                logits, labels = model(**prepared["inputs"]), prepared["pair_labels"]
                if not counts:
                    continue
                sums += torch.stack([*joint_sums(logits, labels)]).cpu()
                for head in CLASSIFIERS:
                    hits = getattr(logits, head).argmax(-1) == labels[head]
                    right[HEADS.index(head)] += int(hits.sum())
        both = self.over_processes(torch.cat([sums, right[None]]))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in _means(both[:2]).items()}
        for place, head in enumerate(HEADS):
            if head in CLASSIFIERS and both[1, place]:
                metrics[f"{metric_key_prefix}_accuracy/{head}"] = float(both[2, place] / both[1, place])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def over_processes(self, values: Tensor) -> Tensor:
        """The sum over the processes, on the CPU."""
        summed: Any = self.accelerator.reduce(values.float().to(self.args.device), reduction="sum")
        return summed.cpu()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the heads' losses since the last log, over all processes."""
        if "loss" in logs:
            means = _means(self.over_processes(self._sums))
            logs = {**logs, **{f"losses/{k}": v for k, v in means.items() if k != "loss"}}
            self._sums.zero_()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated."""
        return 0


def _counts(labels: dict[str, Tensor]) -> list[int]:
    return [int((labels[head] != IGNORED).sum()) if head in labels else 0 for head in HEADS]


def _means(sums: Tensor) -> dict[str, float]:
    """Mean loss of each head that had rows, and `loss`, their weighted sum."""
    means = {"loss": float(weigh(sums[0], sums[1]))}
    for name, total, count in zip(HEADS, *sums.tolist(), strict=True):
        if count:
            means[name] = total / count
    return means


@dataclass(frozen=True)
class Trained:
    """What training did.

    Attributes:
        history: one row per log line.
        truncated: pairs of which tokens were cut off, over the steps since the last resume.
    """

    steps: int
    history: list[dict[str, float]]
    truncated: int


def fit_alignment(
    model: AlignmentModel,
    tokenizer: Any,
    training: Sequence[AlignmentRecord],
    held_out: Sequence[AlignmentRecord],
    options: EncoderTraining,
    run: Run,
    *,
    name: str = "train",
    show: bool = True,
) -> Trained:
    """Train `model` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.

    Raises:
        DataError: records that cannot be used together (`alignment_records.assert_usable`).
    """
    assert_usable(training)
    set_seed(options.seed)
    folder = run.checkpoints / name
    arguments = training_arguments(options, folder, model, n_eval=len(held_out))  # type: ignore[arg-type]
    arguments.adam_epsilon = options.adam_epsilon
    collator = PairCollator(PairEncoder(tokenizer, options.max_length), masked=model.mlm_head is not None)
    evaluated = AlignmentData(held_out, options.seed + 1, 0.0) if held_out else None
    bar = ProgressBar("Training")
    trainer = PairTrainer(
        model,
        arguments,
        train_dataset=AlignmentData(training, options.seed, options.augmentation),
        eval_dataset=evaluated,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[bar, RunEvents(run, name)] if show else [],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    checkpoint = resume_point(folder)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    if held_out and not any("eval_loss" in row for row in trainer.state.log_history[-2:]):
        trainer.evaluate()
    history = [
        {key: value for key, value in row.items() if key != "epoch" and math.isfinite(value)}
        for row in trainer.state.log_history
    ]
    truncated = int(trainer.over_processes(torch.tensor(trainer.truncated)))
    return Trained(trainer.state.global_step, history, truncated)
