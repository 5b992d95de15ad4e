"""Generation with plain transformers, for models that vLLM does not serve (GPT-Neo among them)."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.logits_process import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rollout.engines.causal_lm import checksum, load_causal_lm
from rollout.engines.refilled_batch import RefilledBatch, left_padded, why_not_refilled
from rollout.seeds import derive_seed, hashed_uniform, mixed
from rollout.text.decode import cut_at_stop, decode_continuations, find_stop
from rollout.types import Completion, Group, Prompt, Sampling, StaleWeightsError

log = logging.getLogger("rollout")

# tokens between searches for stop strings: decoding costs more than a few tokens too many
_STOP_EVERY = 8


@dataclass
class _Row:
    """A response that is being drawn: sample `k` of the prompt with this number in the batch."""

    prompt: Prompt
    number: int
    k: int
    seed: int
    ids: list[int] = field(default_factory=list[int])
    ended: bool = False


class TransformersEngine:
    """A model of transformers behind the `Engine` protocol, drawing in left-padded batches.

    A row that has ended leaves its batch, and others take its place; models whose cache is more
    than keys and values run `model.generate` until the longest row of a batch has ended.

    Sampling is done by the Gumbel-max trick with one random stream per sample: argmax(logits + g)
    is an exact draw from softmax(logits), and a sample no longer depends on its batch.
    """

    name = "transformers"

    def __init__(
        self, model: str, *, dtype: str = "auto", batch_size: int = 64, version: int = 0
    ) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = _torch_dtype(dtype, self._device)
        tokenizers: Any = AutoTokenizer
        self._tokenizer: Any = tokenizers.from_pretrained(model)
        self._model = load_causal_lm(model, self._dtype).to(self._device).eval()
        self._batch_size = batch_size
        self._eos = _eos_ids(self._model, self._tokenizer)
        # generate() takes from here what a call does not set: without this, the checkpoint's own
        # temperature, penalties and the like would have an effect
        self._model.generation_config = GenerationConfig()
        reason = why_not_refilled(self._model)
        self._refills = reason is None
        if reason is not None:
            log.info("%s: batches run until their longest row has ended, because %s", model, reason)
        self.version = version

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
    ) -> Iterator[Group]:
        """Yield groups as `Engine.generate`; seeds are always per prompt, at no cost here."""
        version = self.version
        by_length = sorted(prompts, key=lambda p: len(p.token_ids))
        rows = [
            _Row(prompt, number, k, derive_seed(seed, prompt.id) + k)
            for number, prompt in enumerate(by_length)
            for k in sampling.numbers(prompt)
        ]
        drawn: dict[int, dict[int, Completion]] = defaultdict(dict)
        draw = self._drawn_in_turns if self._refills else self._drawn_in_batches
        for row in draw(rows, sampling):
            own, wanted = drawn[row.number], sampling.numbers(row.prompt)
            own[row.k] = self._completion(row.prompt, row.ids, sampling, row.seed)
            if len(own) == len(wanted):
                completions = tuple(own[k] for k in wanted)
                del drawn[row.number]
                yield Group(row.prompt, completions, version)

    def load_weights(self, path: str, version: int) -> None:
        # needs memory for a second copy, but leaves names, ties and dtypes to the library
        self._model.load_state_dict(load_causal_lm(path, self._dtype).state_dict())
        self.wake()  # a sleeping engine comes back with the new weights
        self.version = version

    @torch.inference_mode()
    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        ids = torch.tensor([list(token_ids)], device=self._device)
        logits = self._model(ids).logits[0, :-1].float()
        return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].tolist()

    def checksums(self) -> list[dict[str, int]]:
        return [{name: checksum(one) for name, one in self._model.named_parameters()}]

    def sleep(self, forget: bool = False) -> None:
        self._model.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self._model.to(self._device)

    def _check_version(self, version: int) -> None:
        if self.version != version:
            raise StaleWeightsError(
                f"the weights went from version {version} to {self.version} in mid-generation"
            )

    def _drawn_in_turns(self, rows: Sequence[_Row], sampling: Sampling) -> Iterator[_Row]:
        """Yield rows as they end; waiting rows join when an eighth of the places is free."""
        waiting, running = deque(rows), list[_Row]()
        batch, sampler = RefilledBatch(self._model, self._pad_id), None
        version = self.version
        while waiting or running:
            self._check_version(version)
            free = self._batch_size - len(running)
            if waiting and (not running or 8 * free >= self._batch_size):
                joining = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                with torch.inference_mode():
                    logits_NV = batch.join([row.prompt.token_ids for row in joining])
                    self._draw(joining, logits_NV, _sampler_of(joining, sampling), sampling)
                running += joining
                sampler = None
            else:
                sampler = sampler or _sampler_of(running, sampling)
                with torch.inference_mode():
                    logits_BV = batch.step([row.ids[-1] for row in running])
                    self._draw(running, logits_BV, sampler, sampling)
            if any(row.ended for row in running):
                with torch.inference_mode():
                    batch.keep([at for at, row in enumerate(running) if not row.ended])
                yield from (row for row in running if row.ended)
                running, sampler = [row for row in running if not row.ended], None

    def _draw(
        self,
        rows: Sequence[_Row],
        logits_BV: torch.Tensor,
        sampler: LogitsProcessorList,
        sampling: Sampling,
    ) -> None:
        """Append a drawn token to each row, and set `ended` where the row ends with it."""
        early = [at for at, row in enumerate(rows) if len(row.ids) < sampling.min_new_tokens]
        for end in self._eos if early else ():
            logits_BV[early, end] = -torch.inf
        scores: Any = logits_BV
        best: Any = sampler(scores, scores).argmax(-1)
        for row, token in zip(rows, best.tolist(), strict=True):
            row.ids.append(token)
            row.ended = (
                token in self._eos
                or len(row.ids) == sampling.max_new_tokens
                or (len(row.ids) % _STOP_EVERY == 0 and self._says_stop(row, sampling))
            )

    def _says_stop(self, row: _Row, sampling: Sampling) -> bool:
        """Return whether the response, without its prompt, contains a stop string."""
        if not sampling.stop:
            return False
        # a character is four bytes at most, and some tokenizers spend a token on each
        tail = row.ids[-4 * max(map(len, sampling.stop)) - 8 - _STOP_EVERY :]
        text = decode_continuations(self._tokenizer, row.prompt.token_ids, [tail])[0]
        if find_stop(text, sampling.stop) is None:
            return False
        least = sampling.min_new_tokens
        cut = cut_at_stop(self._tokenizer, row.prompt.token_ids, row.ids, sampling.stop, least)
        return cut is not None

    def _drawn_in_batches(self, rows: Sequence[_Row], sampling: Sampling) -> Iterator[_Row]:
        version = self.version
        for start in range(0, len(rows), self._batch_size):
            self._check_version(version)
            batch = rows[start : start + self._batch_size]
            ids, mask = left_padded([one.prompt.token_ids for one in batch], self._pad_id)
            with torch.inference_mode():
                output = self._model.generate(
                    input_ids=ids.to(self._device),
                    attention_mask=mask.to(self._device),
                    generation_config=_generation_config(sampling, self._eos, self._pad_id),
                    logits_processor=_sampler_of(batch, sampling),
                    stopping_criteria=StoppingCriteriaList(
                        [_StopStrings(self._says_stop, batch, ids.shape[1], sampling)]
                        if sampling.stop
                        else []
                    ),
                )
            for row, new_ids in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                row.ids = new_ids
            yield from batch

    def _completion(
        self, prompt: Prompt, new_ids: list[int], sampling: Sampling, seed: int
    ) -> Completion:
        ids, ended = _cut_at(new_ids, self._eos)
        # a row that a stop string ended was filled up with padding: cut that first
        if sampling.stop and (
            cut := cut_at_stop(
                self._tokenizer, prompt.token_ids, ids, sampling.stop, sampling.min_new_tokens
            )
        ):
            return Completion(cut[1], tuple(cut[0]), "stop", seed)
        text = decode_continuations(self._tokenizer, prompt.token_ids, [ids])[0]
        return Completion(text, tuple(ids), "stop" if ended else "length", seed)

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return pad if pad is not None else min(self._eos, default=0)


class _StopStrings(StoppingCriteria):
    """Ends a row whose response, without its prompt, contains a stop string.

    The library's own criterion looks across the prompt's end and at special tokens, which are no
    text, so it ends rows whose response does not contain the string.
    """

    def __init__(
        self,
        says_stop: Callable[[_Row, Sampling], bool],
        rows: Sequence[_Row],
        width: int,
        sampling: Sampling,
    ) -> None:
        self._says_stop, self._rows = says_stop, rows
        self._width, self._sampling = width, sampling

    def __call__(self, input_ids: Any, scores: object, **kwargs: object) -> Any:
        so_far = input_ids[:, self._width :].tolist()
        ended = [
            self._says_stop(replace(row, ids=ids), self._sampling)
            for row, ids in zip(self._rows, so_far, strict=True)
        ]
        return torch.tensor(ended, device=input_ids.device)


class _SeededGumbel(LogitsProcessor):
    """Adds Gumbel noise, so that the arg max is a draw from the softmax.

    The noise is a hash of the row's seed, the number of tokens drawn before and the token, so that
    it is the same on every device and can be computed on the device of the logits.
    """

    def __init__(self, seeds: Sequence[int], drawn: Sequence[int] | None = None) -> None:
        self._keys = [mixed(seed % 2**64) for seed in seeds]
        self._drawn = list(drawn or [0] * len(seeds))

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it says FloatTensor
        self, input_ids: object, scores: torch.Tensor
    ) -> torch.Tensor:
        both = zip(self._keys, self._drawn, strict=True)
        keys = [mixed((key + drawn) % 2**64) for key, drawn in both]
        self._drawn = [drawn + 1 for drawn in self._drawn]
        signed = [key - 2**64 if key >= 2**63 else key for key in keys]
        noise = hashed_uniform(torch.tensor(signed, device=scores.device), scores.shape[1])
        # double precision keeps ties out of large vocabularies
        return scores.double() - noise.log().neg_().log_()


def _sampler_of(rows: Sequence[_Row], sampling: Sampling) -> LogitsProcessorList:
    """Return a sampler that continues the random stream of each row after its drawn tokens."""
    return _sampler(sampling, [row.seed for row in rows], [len(row.ids) for row in rows])


def _sampler(
    sampling: Sampling, seeds: Sequence[int], drawn: Sequence[int] | None = None
) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*steps, _SeededGumbel(seeds, drawn)])


def _generation_config(sampling: Sampling, eos: frozenset[int], pad: int) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens or None,
        eos_token_id=sorted(eos) or None,
        pad_token_id=pad,
    )


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the checkpoint's end-of-text ids, by vLLM's rule.

    They are those of the generation config, or else the model config, and the tokenizer's.
    """
    own: Any = getattr(model.generation_config, "eos_token_id", None)
    if own is None:
        own = getattr(model.config, "eos_token_id", None)
    ids: set[int | None] = {*(own if isinstance(own, list | tuple) else [own])}
    return frozenset(one for one in ids | {tokenizer.eos_token_id} if one is not None)


def _cut_at(ids: list[int], ends: frozenset[int]) -> tuple[list[int], bool]:
    """Return `ids` up to and including the first end token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1], True
    return ids, False
