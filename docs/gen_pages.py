"""Pages made from the catalogue, the configuration classes and the packages, when the site is built."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parent))
from gen_nav import api_packages

from coalign.cli.flags import shown
from coalign.cli.running.objectives import method_of
from coalign.core.built_in import BUILT_IN, load_built_in
from coalign.core.catalogue import CONFIDENCE, DATA, MODELS, ROOMS, VERBS, Entry, entries
from coalign.core.options import Option, groups_of, options_of
from coalign.core.system import check_module_name, load_check, load_system, module_name
from coalign.training.objective import Objective, all_objectives


def write(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def systems_page() -> str:
    """The table of all systems by room."""
    available, count = sum(entry.available for entry in entries()), len(entries())
    run = "all of which can run" if available == count else f"{available} of which can run"
    intro = (
        f"{count} published systems, {run} (a preview has no check of its claim yet). Where the "
        "confidence is below high, parts of the method could not be confirmed from its paper or code and are "
        "reconstructed: the table says which."
    )
    lines = ["# Systems", "", intro]
    for room, holds in ROOMS.items():
        lines += ["", f"## {room}", "", f"{holds[0].upper()}{holds[1:]}.", ""]
        lines += ["| system | claim | needs |", "|---|---|---|"]
        lines += [systems_row(entry) for entry in entries() if entry.room == room]
    return "\n".join([*lines, ""])


def systems_row(entry: Entry) -> str:
    name = f"[**{entry.slug}**]({entry.slug}.md)" if entry.available else f"**{entry.slug}**"
    if not entry.checked:
        name += f", {entry.status}"
    paper = f"[{entry.title}]({entry.url}), {entry.year}"
    ours = f"<br>*Confidence {entry.confidence}.* {entry.reconstruction}" if entry.reconstruction else ""
    return f"| {name}<br>{paper} | {entry.claim}{ours} | {', '.join(entry.data)} |"


def system_page(entry: Entry) -> str:
    """One available system: what it is, what it needs, its options and its code."""
    system = load_system(entry.slug)
    title, _, text = (inspect.getdoc(system) or "").partition("\n\n")
    verbs = ", ".join(f"*{verb}* ({VERBS[verb]})" for verb in entry.verbs)
    lines = [
        f"# {entry.slug}",
        "",
        title,
        "",
        f"**Paper**: [{entry.title}]({entry.url}) ({entry.year})  ",
        f"**Claim**: {entry.claim}  ",
        f"**Does**: {verbs}  ",
        f"**Data**: {', '.join(f'{kind} ({DATA[kind]})' for kind in entry.data)}  ",
        f"**Models**: {', '.join(f'{kind} ({MODELS[kind]})' for kind in entry.models)}  ",
        f"**Confidence**: {entry.confidence}, {CONFIDENCE[entry.confidence]}. {entry.reconstruction}",
        "",
        text,
        "",
        "## Options",
        "",
        "`coalign run " + entry.slug + " --print-config` prints them as YAML.",
    ]
    lines += option_tables(system.Config)
    module = module_name(entry.room, entry.slug)
    code = [f"::: {module}.{name}\n" for name, value in vars(system).items() if is_own(value, name, module)]
    if entry.checked:
        check, module = load_check(entry.slug), check_module_name(entry.room, entry.slug)
        code += [f"::: {module}.{name}\n" for name in ("check", "check_on_data") if hasattr(check, name)]
    return "\n".join([*lines, "", "## Code", "", *code])


def option_tables(config: type) -> list[str]:
    """The options of a configuration, a table a group."""
    lines: list[str] = []
    for group, options in groups_of(config).items():
        head = ["| option | default | meaning | source of the default |", "|---|---|---|---|"]
        lines += ["", f"### {group}", "", *head, *(option_row(one) for one in options)]
    return lines


def built_in_page(name: str) -> str:
    """A method of no one paper: what it is and its options."""
    method = load_built_in(name)
    title, _, text = (inspect.getdoc(method) or "").partition("\n\n")
    intro = f"`coalign run {name} --print-config` prints them as YAML."
    lines = [f"# {name}", "", title, "", text, "", "## Options", "", intro, *option_tables(method.Config)]
    return "\n".join([*lines, ""])


def is_own(value: object, name: str, module: str) -> bool:
    """Whether a public function or class was written in `module`, not imported there."""
    return callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module


def option_row(one: Option) -> str:
    default = "required" if one.required else f"`{shown(one.default)}`"
    cells = (f"`{one.flag}`", default, f"{one.help} ({one.type_name})", one.source)
    # `[a][b]` is a link in Markdown
    return "| " + " | ".join(cell.replace("|", "\\|").replace("][", "]\\[") for cell in cells) + " |"


def objectives_page() -> str:
    """Every registered objective: when to choose it, its loss, its constants."""
    known = all_objectives().values()
    intro = (
        "What a model can be trained to. `coalign objectives NAME` prints the same. Notation: *x* prompt, *y* response, "
        "*y_w* and *y_l* the chosen and the rejected one, *|y|* response tokens, *π_θ* the policy, *π_ref* the reference; "
        "*a* is a log-probability averaged over the tokens of a response. Prompt tokens never count. Losses are averaged "
        "over the records of an optimizer step, unless it says tokens."
    )
    lines = [
        "# Objectives",
        "",
        intro,
        "",
        "| objective | learns from | reference | when |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| [{one.name}](#{one.name}) | {one.data} | {'yes' if one.reference else 'no'} | {one.when} |"
        for one in known
    ]
    return "\n".join([*lines, "", *(objective_section(one) for one in known)])


def objective_section(one: Objective) -> str:
    """One objective. The heading's identifier is its name."""
    summary = (inspect.getdoc(one.loss) or "").partition("\n\n")[0]
    reference = "a reference is needed" if one.reference else "no reference is needed"
    needs = f"Learns from {one.data} records; {reference}; normalised over {one.normalise}."
    lines = [
        f"## {one.name} {{ #{one.name} }}",
        "",
        summary,
        "",
        one.when,
        "",
        "```latex",
        one.equation,
        "```",
        "",
        f"{needs} Run it with `coalign run {method_of(one)}`.",
        "",
    ]
    constants = options_of(one.constants)
    if constants:
        lines += ["| constant | default | meaning | source of the default |", "|---|---|---|---|"]
        lines += [option_row(constant) for constant in constants]
        lines += [""]
    return "\n".join(lines)


def api_index(packages: dict[str, list[str]]) -> str:
    links = [f"- [coalign.{name}]({name}.md)" for name in packages]
    return "\n".join(["# API", "", "Generated from the docstrings.", "", *links, ""])


def api_page(package: str, modules: list[str]) -> str:
    parts = "\n".join(f"::: coalign.{package}.{name}\n" for name in modules)
    return f"# coalign.{package}\n\n{parts}"


write("systems/index.md", systems_page())
for one in entries():
    if one.available:
        write(f"systems/{one.slug}.md", system_page(one))
for name in BUILT_IN:
    write(f"methods/{name}.md", built_in_page(name))
write("objectives.md", objectives_page())
write("api/index.md", api_index(api_packages()))
for package, modules in api_packages().items():
    write(f"api/{package}.md", api_page(package, modules))
