"""Read and encode a run's prompts, hold some out, and assign the others to iterations.

Iterations take slices of a seeded permutation of the prompts, and then of the next permutation.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.checkpoints.hub import local_path
from rollout.data.bad_rows import BadRows
from rollout.data.jsonl import is_object
from rollout.seeds import derive_seed
from rollout.storage.files import read_json
from rollout.text.printable import one_line
from rollout.text.templates import Tokenizer, encode_prompts
from rollout.types import Completion, Group, InputError, Prompt

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.selection.mix import Example

__all__ = [
    "Texts",
    "check_counts",
    "digest",
    "encode_texts",
    "load_all_prompts",
    "load_tokenizer",
    "prompts_of",
    "read_texts",
]

log = logging.getLogger("raft")


@dataclass(frozen=True)
class Texts:
    """A run's prompts as read from their files, not encoded yet.

    `held_out` is None where some of `prompts` will be held out. `mix` are the examples that updates
    learn besides the selected responses.
    """

    prompts: list[Prompt]
    held_out: list[Prompt] | None
    mix: list[Example] = field(default_factory=list["Example"])


def read_texts(config: RunConfig) -> Texts:
    """Read the files of a run's prompts, without loading a tokenizer, which takes seconds.

    Raises:
        InputError: a file is missing or cannot be read, or a row is bad and not to be skipped.
    """
    from raft.selection.mix import read_mix
    from rollout.data.prompts import read_prompts
    from rollout.data.sources import find_source

    section = config.prompts
    if config.monitor.reference_text is not None:
        try:
            find_source(config.monitor.reference_text)
        except InputError as error:
            raise InputError("monitor.reference_text", error) from error
    held_out = None
    if isinstance(config.eval.prompts, str):
        held_out = read_prompts(
            config.eval.prompts,
            format=section.format,
            column=section.column,
            columns=section.columns,
            separator=section.separator,
            first_words=section.first_words,
            bad=BadRows(section.on_bad_row),
        )
    return Texts(_read(config), held_out, read_mix(config))


def encode_texts(config: RunConfig, texts: Texts) -> tuple[list[Prompt], list[Prompt]]:
    """Return the training and the held-out prompts, encoded. No held-out prompt is trained on.

    Raises:
        InputError: a prompt is too long or cannot be read by a reward, and is not to be skipped; or
            there are too few prompts for the config.
    """
    prompts = _readable(config, _encode(config, texts.prompts), config.prompts.path)
    if texts.held_out is not None:
        held_out = _encode(config, texts.held_out)
        held_out = _readable(config, held_out, str(config.eval.prompts))
        training = _without(prompts, texts.held_out)
    else:
        assert isinstance(config.eval.prompts, int), "no file of held-out prompts was read"
        training, held_out = _hold_out(config, prompts, config.eval.prompts)
    _check_enough(config.prompts.per_iteration, len(training), len(prompts) - len(training))
    return training, held_out


def load_all_prompts(config: RunConfig, bad: BadRows) -> list[Prompt]:
    """Return all prompts of `prompts.path`, encoded; none is held out.

    Raises InputError for files and rows that cannot be read; rows that are skipped go to `bad`.
    """
    return _encode(config, _read(config, bad), bad)


def _read(config: RunConfig, bad: BadRows | None = None) -> list[Prompt]:
    from rollout.data.prompts import read_prompts

    section = config.prompts
    return read_prompts(
        section.path,
        format=section.format,
        column=section.column,
        columns=section.columns,
        split=section.split,
        separator=section.separator,
        first_words=section.first_words,
        limit=section.limit,
        bad=bad or BadRows(section.on_bad_row),
    )


def digest(prompts: list[Prompt], held_out: list[Prompt], mix: Sequence[Example] = ()) -> str:
    """Return the SHA-256 of a run's prompts in order (ids, tokens, other columns), and of `mix`."""
    found = hashlib.sha256()
    for section in (prompts, held_out):
        found.update(b"|")
        for prompt in section:
            found.update(repr((prompt.id, prompt.token_ids, prompt.fields)).encode())
    for example in mix:
        found.update(repr(example).encode())
    return found.hexdigest()


def load_tokenizer(model: str) -> Tokenizer:
    """Return the policy's tokenizer, of a toy policy the toy's. Raises InputError without one."""
    if (Path(model) / "toy_policy.json").exists():
        from rollout.engines.toy import read_toy

        return read_toy(model)[0]
    if _is_plain_llama(Path(model)):  # 2 s instead of 6: without torch and all kinds of models
        from transformers import PreTrainedTokenizerFast as AutoTokenizer
    else:
        from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError("policy.model", f"no tokenizer for {model} ({one_line(error)})") from error


def _is_plain_llama(folder: Path) -> bool:
    """Return whether `AutoTokenizer` would load the general class, PreTrainedTokenizerFast.

    It does for a llama whose tokenizer config names this class: llamas have no class of their own.
    """
    try:
        model, own = (read_json(folder / f"{name}config.json") for name in ("", "tokenizer_"))
    except ValueError:  # `AutoTokenizer` will report what is wrong
        return False
    return (
        is_object(model)
        and is_object(own)
        and model.get("model_type") == "llama"
        and own.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
        and "auto_map" not in own
    )


def _encode(config: RunConfig, prompts: list[Prompt], bad: BadRows | None = None) -> list[Prompt]:
    from rollout.engines.base import context_length

    policy = config.policy
    bad = bad or BadRows(config.prompts.on_bad_row)
    known = len(bad.reasons)
    encoded = encode_prompts(
        prompts,
        load_tokenizer(local_path(policy.model)),
        template=policy.template,
        chat_template_kwargs=policy.chat_template_kwargs,
        max_model_len=policy.max_model_len or context_length(local_path(policy.model)),
        max_new_tokens=config.sampling.max_new_tokens,
        max_prompt_tokens=config.prompts.max_tokens,
        bad=bad,
    )
    if len(bad.reasons) > known:
        log.warning("%s: %s", config.prompts.path, bad.line())
    return encoded


def _readable(config: RunConfig, prompts: list[Prompt], path: str) -> list[Prompt]:
    """Return the prompts that the run's rewards can read, as far as their tokenizers tell.

    Every reward can read a single question; only conversations are checked. The others are bad
    rows. Raises InputError for the first bad row that is not to be skipped.
    """
    dialogues = [prompt for prompt in prompts if not _is_question(prompt)]
    if not dialogues:
        return prompts
    from rewards.scoring.reading import Reading

    readings = [Reading(spec, length=False, local=True) for spec in config.rewards().values()]
    bad = BadRows(config.prompts.on_bad_row)
    for prompt in dialogues:
        where = f"{path}: prompt {prompt.id!r}"
        try:
            for reading in readings:
                reading.check_groups([Group(prompt, (Completion("a"), Completion("b")), 0)], where)
        except InputError as error:
            bad.take(prompt.id, where, error)
    bad.warn(path, log)
    return [prompt for prompt in prompts if prompt.id not in bad.reasons]


def _is_question(prompt: Prompt) -> bool:
    content = prompt.content
    return isinstance(content, str) or (
        len(content) == 1 and content[0]["role"] == "user" and len(content[0]) == 2
    )


def _hold_out(
    config: RunConfig, prompts: list[Prompt], count: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Return training and held-out prompts: the seed decides which `count` are held out.

    Other prompts with the text of a held-out one are in neither list.
    """
    _check_held_out(count, len(prompts))
    order = sorted(prompts, key=lambda p: derive_seed(config.seed, "held-out", p.id))
    held_out = order[:count]
    return _without(prompts, held_out), held_out


def check_counts(config: RunConfig, texts: Texts) -> None:
    """Check, before prompts are encoded, that there are enough. Raises InputError where not."""
    count, held_out = len(texts.prompts), 0
    if isinstance(config.eval.prompts, int):
        held_out = config.eval.prompts
        _check_held_out(held_out, count)
    _check_enough(config.prompts.per_iteration, count - held_out, held_out)


def _check_held_out(held_out: int, count: int) -> None:
    if held_out >= count:
        raise InputError(
            "eval.prompts",
            f"holding out {held_out} of {count} prompts leaves none to train on",
            "lower it or give more prompts",
        )


def _without(prompts: list[Prompt], held_out: list[Prompt]) -> list[Prompt]:
    """Return the prompts whose text is not held out; texts are compared, since corpora repeat them.

    Raises InputError where none is left.
    """
    texts = {_text(prompt) for prompt in held_out}
    kept = [prompt for prompt in prompts if _text(prompt) not in texts]
    if not kept:
        raise InputError("eval.prompts", "every training prompt is held out", "give other prompts")
    return kept


def _text(prompt: Prompt) -> str:
    if isinstance(prompt.content, str):
        return prompt.content
    if len(prompt.content) == 1:  # the same question, asked as a message
        return prompt.content[0]["content"]
    return "\x1f".join(f"{m['role']}\x1e{m['content']}" for m in prompt.content)


def prompts_of(
    iteration: int, prompts: Sequence[Prompt], per_iteration: int, seed: int
) -> list[Prompt]:
    """Return the prompts of an iteration (1, 2, …): none comes twice until all have come (LMFlow).

    Where a permutation ends inside an iteration, the next one goes on, arranged so that no prompt
    comes twice in that iteration and each comes once in every permutation.

    Raises:
        InputError: there are fewer prompts than one iteration takes.
    """
    count = len(prompts)
    _check_enough(per_iteration, count)
    epoch, offset = divmod((iteration - 1) * per_iteration, count)
    order = _order(epoch, prompts, per_iteration, seed)
    batch = order[offset : offset + per_iteration]
    if missing := per_iteration - len(batch):
        batch += _after(order, epoch, prompts, per_iteration, seed)[:missing]
    return batch


def _check_enough(per_iteration: int, count: int, held_out: int = 0) -> None:
    if per_iteration > count:
        without = f" ({held_out} are held out)" if held_out else ""
        raise InputError(
            "prompts.per_iteration",
            f"is {per_iteration}, but only {count} prompts are there to train on{without}",
            "lower it or add prompts",
        )


def _order(epoch: int, prompts: Sequence[Prompt], per_iteration: int, seed: int) -> list[Prompt]:
    """Return permutation number `epoch`, built from the last one that began with an iteration."""
    first = epoch
    while (first * len(prompts)) % per_iteration:
        first -= 1
    order = _permutation(prompts, seed, first)
    for number in range(first, epoch):
        order = _after(order, number, prompts, per_iteration, seed)
    return order


def _after(
    order: list[Prompt], epoch: int, prompts: Sequence[Prompt], per_iteration: int, seed: int
) -> list[Prompt]:
    """Return the permutation after `order`, which has the number `epoch`.

    Where an iteration takes the end of `order` and the beginning of the next permutation, the
    prompts at that beginning are others than those at that end.
    """
    tail = (epoch + 1) * len(prompts) % per_iteration
    following = _permutation(prompts, seed, epoch + 1)
    taken = {prompt.id for prompt in order[len(order) - tail :]}
    fresh = [prompt for prompt in following if prompt.id not in taken]
    head = fresh[: per_iteration - tail] if tail else []
    in_head = {prompt.id for prompt in head}
    return head + [prompt for prompt in following if prompt.id not in in_head]


def _permutation(prompts: Sequence[Prompt], seed: int, epoch: int) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: derive_seed(seed, "order", epoch, prompt.id))
