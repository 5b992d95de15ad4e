"""Generation with plain transformers, for models that vLLM does not serve (GPT-Neo among them)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from rollout.seeds import derive_seed
from rollout.text.decode import Decoder, cut_at_stop, decode_continuations, find_stop
from rollout.types import Completion, Group, Prompt, Sampling, StaleWeightsError

# of SplitMix64, as signed numbers of 64 bits
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


class TransformersEngine:
    """`model.generate` in left-padded batches behind the `Engine` protocol.

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
        # generate() fills whatever we leave open from here: the checkpoint's own temperature,
        # penalties and the like would leak in
        self._model.generation_config = GenerationConfig()
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
        """As `Engine.generate`; seeds are per prompt in either case: here that costs nothing."""
        version = self.version
        by_length = sorted(prompts, key=lambda p: len(p.token_ids))
        rows = [(number, k) for number in range(len(by_length)) for k in range(sampling.k)]
        drawn: dict[int, list[Completion]] = defaultdict(list)
        for start in range(0, len(rows), self._batch_size):
            if self.version != version:
                raise StaleWeightsError(
                    f"the weights went from version {version} to {self.version} in mid-generation"
                )
            batch = rows[start : start + self._batch_size]
            samples = [(by_length[number], k) for number, k in batch]
            completions = self._generate_batch(samples, sampling, seed)
            for (number, _), completion in zip(batch, completions, strict=True):
                drawn[number].append(completion)
                if len(drawn[number]) == sampling.k:
                    yield Group(by_length[number], tuple(drawn.pop(number)), version)

    def load_weights(self, path: str, version: int) -> None:
        # a whole second copy for a moment, but names, ties and dtypes are the library's business
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

    @torch.inference_mode()
    def _generate_batch(
        self, rows: Sequence[tuple[Prompt, int]], sampling: Sampling, seed: int
    ) -> list[Completion]:
        seeds = [derive_seed(seed, prompt.id) + prompt.drawn + k for prompt, k in rows]
        ids, mask = _left_pad([prompt.token_ids for prompt, _ in rows], self._pad_id, self._device)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=_generation_config(sampling, self._eos, self._pad_id),
            logits_processor=_sampler(sampling, seeds),
            stopping_criteria=self._stopping([prompt for prompt, _ in rows], ids, sampling),
        )
        return [
            self._completion(prompt, new_ids, sampling, own_seed)
            for (prompt, _), new_ids, own_seed in zip(
                rows, output[:, ids.shape[1] :].tolist(), seeds, strict=True
            )
        ]

    def _stopping(
        self, prompts: Sequence[Prompt], ids: torch.Tensor, sampling: Sampling
    ) -> StoppingCriteriaList:
        if not sampling.stop:
            return StoppingCriteriaList()
        return StoppingCriteriaList(
            [_StopStrings(self._tokenizer, prompts, ids.shape[1], sampling)]
        )

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
    """Ends a row whose response, without its prompt, says a stop string.

    The library's own criterion looks across the prompt's end and at special tokens, which are no
    text, so it ends rows whose response never says the string.
    """

    def __init__(
        self,
        tokenizer: Decoder,
        prompts: Sequence[Prompt],
        width: int,
        sampling: Sampling,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._width = width
        self._sampling = sampling
        # a character is four bytes at most, and some tokenizers spend a token on each
        self._tail = 4 * max(map(len, sampling.stop)) + 8

    def __call__(self, input_ids: Any, scores: object, **kwargs: object) -> Any:
        tails = [row[-self._tail :] for row in input_ids[:, self._width :].tolist()]
        ended = [
            self._maybe(prompt, tail) and self._says_stop(prompt, row[self._width :].tolist())
            for prompt, row, tail in zip(self._prompts, input_ids, tails, strict=True)
        ]
        return torch.tensor(ended, device=input_ids.device)

    def _maybe(self, prompt: Prompt, tail: list[int]) -> bool:
        text = decode_continuations(self._tokenizer, prompt.token_ids, [tail])[0]
        return find_stop(text, self._sampling.stop) is not None

    def _says_stop(self, prompt: Prompt, ids: list[int]) -> bool:
        stops, least = self._sampling.stop, self._sampling.min_new_tokens
        return cut_at_stop(self._tokenizer, prompt.token_ids, ids, stops, least) is not None


class _SeededGumbel(LogitsProcessor):
    """Adds Gumbel noise, so that the arg max is a draw from the softmax.

    A number is a hash of its row's seed, of how many tokens were drawn before and of the token: a
    seed means the same on every device, and the noise is made where the logits are.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._keys = [_mixed(seed % 2**64) for seed in seeds]
        self._drawn = 0

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it says FloatTensor
        self, input_ids: object, scores: torch.Tensor
    ) -> torch.Tensor:
        keys = [_mixed((key + self._drawn) % 2**64) for key in self._keys]
        self._drawn += 1
        signed = [key - 2**64 if key >= 2**63 else key for key in keys]
        noise = hashed_uniform(torch.tensor(signed, device=scores.device), scores.shape[1])
        # double precision keeps ties out of large vocabularies
        return scores.double() - noise.log().neg_().log_()


def hashed_uniform(key_B: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) numbers above 0 and below 1 from (B,) keys: SplitMix64 (Steele et al. 2014), whose
    state a key begins."""
    hash_BV = key_B[:, None] + _GOLDEN * torch.arange(1, count + 1, device=key_B.device)
    for shift, factor in _ROUNDS:
        # `>>` copies the sign
        hash_BV ^= (hash_BV >> shift) & (2 ** (64 - shift) - 1)
        hash_BV *= factor
    hash_BV ^= (hash_BV >> 31) & (2**33 - 1)
    return ((hash_BV >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)


def _mixed(value: int) -> int:
    """SplitMix64's hash of one number."""
    value = (value + _GOLDEN) % 2**64
    for shift, factor in _ROUNDS:
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)


def _sampler(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*steps, _SeededGumbel(seeds)])


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
    """The checkpoint's end-of-text ids, by vLLM's rule: the generation config's (the model config's
    where that has none) and the tokenizer's."""
    own: Any = getattr(model.generation_config, "eos_token_id", None)
    if own is None:
        own = getattr(model.config, "eos_token_id", None)
    ids: set[int | None] = {*(own if isinstance(own, list | tuple) else [own])}
    return frozenset(one for one in ids | {tokenizer.eos_token_id} if one is not None)


def _left_pad(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(list(row))
        mask[number, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _cut_at(ids: list[int], ends: frozenset[int]) -> tuple[list[int], bool]:
    """`ids` up to and with the first end token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1], True
    return ids, False
