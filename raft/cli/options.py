"""Option groups, number types, renamed options and printing of results, shared by the commands.

Nothing heavy is imported here or in the modules that add commands, so that `raft --help` stays
fast. The choices of an option are therefore repeated here; a test compares them with their types.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypedDict

from rollout.data.jsonl import is_object, to_json
from rollout.errors import InputError
from rollout.text.printable import printable, printable_json

if TYPE_CHECKING:
    from argparse import _ActionsContainer as OptionGroup

__all__ = [
    "DTYPES",
    "JUDGE",
    "MODEL",
    "SCORINGS",
    "TEMPLATES",
    "AddCommand",
    "Parser",
    "add_chat_template_kwargs",
    "add_data_options",
    "add_gpus",
    "add_json",
    "add_model_options",
    "add_old_name",
    "add_on_bad_row",
    "add_out_dir",
    "add_restart",
    "add_seed",
    "add_set",
    "add_tournament_options",
    "count",
    "data_options",
    "form_name",
    "model_settings",
    "names",
    "positive",
    "print_result",
    "run_folder",
]

MODEL = "model folder, hub name, function:NAME, or YAML file with a reward: section"
JUDGE = "pairwise model: folder, hub name, or YAML file with a judge: section"
DTYPES = ("auto", "float32", "bfloat16", "float16")
TEMPLATES = ("auto", "chat", "plain", "hh", "hh_hash")
FAMILIES = ("classifier", "armorm", "grm")
FORMATS = ("chat", "hh_hash", "plain", "hh", "ultrarm", "beaver")
BOS = ("single", "double", "none")
EOS = ("none", "single")
REWARD_ENGINES = ("auto", "transformers", "vllm")
METHODS = (
    "round_robin", "knockout", "sequential", "pivot", "best_and_worst", "double_elimination",
    "swiss",
)  # fmt: skip
SCORINGS = ("copeland", "mean_probability", "mean_logit", "bradley_terry", "points")
_MODEL_SETTINGS = (
    "family", "format", "bos", "eos", "max_length", "chat_template_kwargs", "dtype", "engine",
    "device",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError for a wrong command line: one line, exit code 2.

    Options cannot be abbreviated: `--rep` must not become `--replace`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        where = self.prog.removeprefix("raft").strip() or "command line"
        raise InputError(where, message, f"see `{self.prog} --help`")


class DataOptions(TypedDict):
    """Which split of a dataset is read, and other names that columns have in the data."""

    split: str
    columns: dict[str, str]


class AddCommand(Protocol):
    """A function that adds a command to the command line and returns the command's parser."""

    def __call__(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        examples: str,
        *,
        interrupted: str | None = None,
    ) -> Parser:
        """Add a command; `text` describes it, `interrupted` is printed after Ctrl-C."""
        ...


class _OldName(argparse.Action):
    """The action of an option's former name: do what the new one does, and note it for the log."""

    def __init__(
        self,
        option_strings: list[str],
        dest: str,
        new: argparse.Action,
        nargs: str | None = None,
        const: object = None,
    ) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs=nargs or new.nargs,
            const=const if nargs else new.const,
            type=new.type,  # pyright: ignore[reportArgumentType]
            choices=new.choices,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
        self.new = new

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        renamed = (option_string, self.new.option_strings[-1])
        namespace.old_names = [*getattr(namespace, "old_names", []), renamed]
        self.new(parser, namespace, values, option_string)


def add_old_name(
    to: OptionGroup,
    old: str,
    new: argparse.Action,
    *,
    nargs: str | None = None,
    const: object = None,
) -> None:
    """Add `old` as a hidden name of the option `new`, for one release.

    Args:
        nargs, const: for an old name whose value was optional.
    """
    to.add_argument(old, dest=new.dest, action=_OldName, new=new, nargs=nargs, const=const)


def positive(text: str) -> int:
    """Parse a whole number of 1 or more. Raises ArgumentTypeError for anything else."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def count(text: str) -> int:
    """Parse a whole number of 0 or more. Raises ArgumentTypeError for anything else."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 0 or more")
    return int(text)


def run_folder(text: str) -> str:
    """Refuse an empty name of a run folder, which would mean the current one; return others."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; name a run folder, . for this one")
    return text


def form_name(text: str) -> str:
    """Return the name of a form of rows, `pairs` for `pair`, as sources of train-reward have it."""
    return {"pair": "pairs"}.get(text, text)


def names(text: str) -> list[str]:
    """Split names at commas; empty ones are skipped."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_seed(to: OptionGroup, use: str, default: int | None = 0) -> None:
    """Add `--seed`; with `default` None a command can tell that it was not given, and takes 0."""
    to.add_argument(
        "--seed", type=count, default=default, metavar="N",
        help=f"random seed of {use} (default: 0)",
    )  # fmt: skip


def add_json(to: OptionGroup, what: str = "the result") -> None:
    """Add `--json`, with which stdout holds one JSON object and nothing else."""
    to.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def add_out_dir(to: OptionGroup, files: str) -> None:
    """Add `--out-dir` of a command that writes nothing by default, and its old name `--out`."""
    made = to.add_argument("--out-dir", metavar="DIR", help=f"folder to write {files} into")
    add_old_name(to, "--out", made)


def add_chat_template_kwargs(to: OptionGroup) -> None:
    """Add `--chat-template-kwargs`."""
    to.add_argument(
        "--chat-template-kwargs", type=_mapping, metavar="JSON",
        help="variables of the chat template: '{\"enable_thinking\": false}'",
    )  # fmt: skip


def _mapping(text: str) -> dict[str, object]:
    from rollout.data.overrides import parse_yaml

    found = parse_yaml(text, "--chat-template-kwargs")
    if not is_object(found):
        raise argparse.ArgumentTypeError(f"{text} is no JSON object")
    return found


def add_on_bad_row(to: OptionGroup, skipped: str) -> None:
    """Add `--on-bad-row`; `skipped` says what becomes of a bad row that is skipped."""
    to.add_argument(
        "--on-bad-row", choices=("stop", "skip"), default="stop",
        help="stop at a row that cannot be used, or skip such rows and count them by reason: each "
        f"{skipped} (default: stop)",
    )  # fmt: skip


def add_data_options(to: OptionGroup) -> None:
    """Add `--split` and `--columns`: which split of a dataset is read, and names of columns."""
    to.add_argument(
        "--split", default="train", metavar="NAME", help="split of a dataset (default: train)"
    )
    to.add_argument(
        "--columns", metavar="NAME=COLUMN,...",
        help="columns that have other names in the data: prompt=question, or dotted, "
        "answer=reward_model.ground_truth; NAME= leaves one out",
    )  # fmt: skip


def data_options(options: argparse.Namespace) -> DataOptions:
    """Return what `add_data_options` read. Raises InputError for malformed `--columns`."""
    from rollout.data.sources import parse_columns

    return {"split": options.split, "columns": parse_columns(options.columns or "")}


def add_gpus(to: OptionGroup, what: str) -> None:
    """Add `--gpus`; `what` says in the help what each GPU works on."""
    to.add_argument(
        "--gpus", type=positive, metavar="N",
        help=f"use N GPUs of this machine, a copy of the model on each: {what} "
        "(default: one process, on one GPU if there is one)",
    )  # fmt: skip


def add_restart(to: OptionGroup) -> None:
    """Add `--restart`."""
    to.add_argument(
        "--restart", action="store_true",
        help="start again and replace what an earlier command wrote",
    )  # fmt: skip


def add_set(to: OptionGroup, what: str) -> None:
    """Add `--set key=value`."""
    to.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="key=value",
        help=f"set {what}; may be repeated",
    )  # fmt: skip


def add_model_options(
    parser: Parser, *, without: Container[str] = (), judges: bool = False
) -> None:
    """Add the options that say how a reward model is read.

    Args:
        without: settings that the command does not have, or needs for something else.
        judges: the model may be a judge, found by `--family pairwise`.
    """
    group = parser.add_argument_group(
        "how a reward model is read (default: as the model was published)"
    )
    family = group.add_argument(
        "--family",
        choices=(*FAMILIES, "pairwise") if judges else FAMILIES,
        help="architecture, where the files do not tell",
    )
    if judges:
        add_old_name(group, "--kind", family)
    group.add_argument("--format", choices=FORMATS, help="how a conversation becomes text")
    group.add_argument("--bos", choices=BOS, help="number of BOS tokens")
    group.add_argument("--eos", choices=EOS, help="single: end each conversation in one EOS")
    group.add_argument(
        "--max-length", type=positive, metavar="N",
        help="most tokens of a conversation; longer ones are cut",
    )  # fmt: skip
    if "chat_template_kwargs" not in without:
        add_chat_template_kwargs(group)
    if "dtype" not in without:
        group.add_argument("--dtype", choices=DTYPES, help="precision of the model's weights")
    if "engine" not in without:
        group.add_argument(
            "--engine", choices=REWARD_ENGINES, help="what runs the model (default: auto)"
        )
    group.add_argument(
        "--device", help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    if "set" not in without:
        add_set(group, "any other setting of the reward, for example arguments.unit=chars")


def model_settings(
    options: argparse.Namespace, *, without: Container[str] = ()
) -> dict[str, object]:
    """Return what `add_model_options` read with the same `without`, None for options not given."""
    return {name: getattr(options, name) for name in _MODEL_SETTINGS if name not in without}


def add_tournament_options(parser: Parser, method: str) -> OptionGroup:
    """Add `--method`, `--budget` and `--tie`; `method` says which method is the default."""
    group = parser.add_argument_group("tournament of a judge")
    group.add_argument("--method", choices=METHODS, help=f"schedule of comparisons; {method}")
    group.add_argument("--budget", type=count, metavar="N", help="most comparisons for each prompt")
    group.add_argument(
        "--tie", type=float, metavar="D",
        help="count a probability within D of 1/2 as a tie (default: 0)",
    )  # fmt: skip
    return group


def print_result(options: argparse.Namespace, result: Mapping[str, object], text: str) -> None:
    """Print `result` as one JSON object where `--json` is given, else `text`; NaN becomes null."""
    if options.json:
        utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
        print(printable_json(to_json(result, ascii=not utf8)))
    elif text:
        print(printable(text.rstrip("\n")))
