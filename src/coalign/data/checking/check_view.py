"""The findings of `coalign data check` in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from coalign.core.errors import RecordProblem
from coalign.data.checking.check import UNTRAINED, Check, Lengths
from coalign.data.checking.check_mix import Mix

BAR_WIDTH = 40
SHOWN_PROBLEMS = 20
SHOWN_CHARACTERS = 600
SHOWN_TOKENS = 120


def print_check(check: Check, console: Console) -> None:
    """Print everything: recognised, counts, lengths, warnings, examples, bad records, verdict."""
    console.print(Text(check.source, style="bold"), soft_wrap=True)
    console.print(Text(f"Recognised: {check.recognised}."), soft_wrap=True)
    for name, use in check.columns.items():
        console.print(Text.assemble("  ", (name, "bold"), f": {use}"), soft_wrap=True)
    console.print()
    console.print(_counts(check))
    for lengths in check.lengths:
        console.print()
        _print_lengths(lengths, console)
    for line in check.warnings():
        console.print(Text.assemble(("\nwarning ", "yellow"), line), soft_wrap=True)
    if check.examples:
        marked = "highlighted" if console.color_system else "between ⟦ and ⟧"
        console.print(Text(f"\nFirst records; what can be trained on is {marked}", style="bold"))
        opening, closing = ("", "") if console.color_system else ("⟦", "⟧")
        for example in check.examples:
            texts = [
                (f"{name}: ", _visible(text) if name == UNTRAINED else f"{opening}{_visible(text)}{closing}")
                for name, text in example.responses
            ]
            prompt = _visible(example.prompt, keep_end=True)
            _print_record(example.place, prompt, texts, "black on green", console)
    if check.pictures:
        console.print(Text("\nToken by token, the first record of each shape", style="bold"))
        for picture in check.pictures:
            texts = [(f"{name} ", _cells(tokens)) for name, tokens in picture.responses]
            _print_record(picture.place, _cells(picture.prompt, keep_end=True), texts, "green", console)
    for file, overlap in check.against.items():
        console.print(Text(f"\nAgainst {file}", style="bold"))
        if not overlap.matches:  # else it is among the warnings
            console.print(Text(f"{overlap.told()}."), soft_wrap=True)
        for match in overlap.matches[:SHOWN_PROBLEMS]:
            how = "same words" if match.same else f"near, {match.similarity:.2f}"
            answer = ", same response" if match.answered else ""
            console.print(Text(f"  {match.evaluated} and {match.trained}: {how}{answer}"), soft_wrap=True)
    print_problems("Bad records", check.problems, console)
    print_problems("Dropped for length", check.dropped or [], console)
    console.print()
    console.print(_verdict(check), soft_wrap=True)


def print_mix(mix: Mix, console: Console) -> None:
    """Print what several sources are together."""
    console.print(Text("\nMix", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("source", "kind", "records", "drawn", "weight", "in a pass", "share"):
        table.add_column(name, justify="left" if name in ("source", "kind") else "right")
    for one in mix.sources:
        counts = (f"{count:,}" for count in (one.records, one.capped))
        table.add_row(one.tag, one.kind, *counts, f"{one.weight:g}", f"{one.in_pass:,}", f"{one.share:.1%}")
    console.print(table)
    for one in mix.warnings():
        console.print(Text.assemble(("\nwarning ", "yellow"), one), soft_wrap=True)
    if not mix.usable:
        console.print(Text("\nNot usable together.", style="bold red"))


def _counts(check: Check) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    rows: list[tuple[str, int | str]] = [
        ("usable records", check.n_records),
        ("bad records", check.n_bad),
        ("exact duplicates", check.duplicates),
        ("same prompt, other responses", check.repeated_prompts),
    ]
    if check.kind in ("preference", "ranking"):
        rows += [("identical responses", check.identical_responses), ("tied scores", check.ties)]
    if check.shown[0]:
        rows += [("pictures", check.shown[0]), ("records with pictures", check.shown[1])]
    rows += [
        (f"labelled {name}", f"{count} ({_share(count, check.classes)})")
        for name, count in check.classes.items()
    ]
    if check.truncated_prompts is not None:
        limits = {"max prompt length": check.max_prompt_length, "max length": check.max_length}
        said = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)
        rows += [
            (f"prompts cut ({said})", check.truncated_prompts),
            (f"responses cut ({said})", check.truncated_responses or 0),
            (f"dropped ({said})", len(check.dropped or [])),
        ]
    for name, value in rows:
        table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    return table


def _share(count: int, classes: dict[str, int]) -> str:
    return f"{count / sum(classes.values()):.0%}"


def _print_lengths(lengths: Lengths, console: Console) -> None:
    said = (
        f"median {lengths.median:g}, mean {lengths.mean:g}, 95 % {lengths.p95:,}, longest {lengths.longest:,}"
    )
    console.print(Text.assemble((f"{lengths.part} ", "bold"), f"{lengths.unit}: {said}"), soft_wrap=True)
    most = max(count for *_, count in lengths.bins)
    labels = [f"{start}-{end}" if end > start else str(start) for start, end, _ in lengths.bins]
    width = max(map(len, labels))
    for label, (_, _, count) in zip(labels, lengths.bins, strict=True):
        bar = "█" * max(round(BAR_WIDTH * count / most), 1 if count else 0)
        console.print(Text.assemble(f"  {label:>{width}} ", (bar, "cyan"), f" {count:,}"))


def _print_record(
    place: str, prompt: str, responses: list[tuple[str, str]], style: str, console: Console
) -> None:
    console.print(Text(f"\n{place}", style="dim"), soft_wrap=True)
    for text in (
        Text(prompt, style="dim"),
        *(
            Text.assemble((name, "bold"), (said, "dim" if name.startswith(UNTRAINED) else style))
            for name, said in responses
        ),
    ):
        console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _cells(tokens: list[str], *, keep_end: bool = False) -> str:
    """Tokens between bars; line breaks and spaces at their ends visible."""
    shown = [one.replace("\n", "⏎").replace(" ", "·") for one in tokens]
    if len(shown) > SHOWN_TOKENS:
        kept = SHOWN_TOKENS // 2 if keep_end else SHOWN_TOKENS - 8
        shown = [
            *shown[:kept],
            f"[... {len(shown) - SHOWN_TOKENS} tokens ...]",
            *shown[kept - SHOWN_TOKENS :],
        ]
    return _visible("|".join(shown), keep_end=keep_end, most=len("|".join(shown)))


def _visible(text: str, *, keep_end: bool = False, most: int = SHOWN_CHARACTERS) -> str:
    """Text without control characters, shortened: a prompt keeps its end, where the response joins."""
    clean = "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)
    if len(clean) <= most:
        return clean
    half = SHOWN_CHARACTERS // 2
    start, end = (half, half) if keep_end else (SHOWN_CHARACTERS - 60, 60)
    return f"{clean[:start]} [... {len(clean) - start - end} characters ...] {clean[-end:]}"


def print_problems(title: str, problems: list[RecordProblem], console: Console) -> None:
    """Print the first of them below a title; nothing where there is none."""
    if not problems:
        return
    console.print(Text(f"\n{title}", style="bold"))
    for problem in problems[:SHOWN_PROBLEMS]:
        console.print(Text(str(problem)), soft_wrap=True)
    if len(problems) > SHOWN_PROBLEMS:
        console.print(f"... and {len(problems) - SHOWN_PROBLEMS} more (all with --json)")


def _verdict(check: Check) -> Text:
    bad = f" Bad records: {check.n_bad:,}" if check.n_bad else ""
    if check.usable:
        where = f" (in {check.rejects})" if check.rejects else ""
        left_out = f"{bad}, left out{where}." if bad else ""
        return Text.assemble(("Usable", "bold green"), f": {check.n_records:,} records.{left_out}")
    if not check.n_records:
        return Text.assemble(("Not usable", "bold red"), ": no record can be used.")
    if check.same_tokens == check.n_records:
        same = ": in every record the responses that are compared are the same tokens."
        return Text.assemble(("Not usable", "bold red"), same)
    if not check.n_bad:
        return Text.assemble(("Not usable", "bold red"), ": this tokenizer cannot encode the records above.")
    return Text.assemble(
        ("Not usable", "bold red"),
        f" as it is.{bad}: correct them, or leave them out with --on-bad-record skip.",
    )
