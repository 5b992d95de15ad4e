"""Reward models on vLLM: pooling for classifiers, log-probabilities of two labels for judges.

The engine lives in this process, and for as long: vLLM takes down its process-wide groups when one
of its engines is deleted, and with them every other engine, the rollout's too. On a CPU, vLLM makes
`torch.set_num_threads` a no-op, so train elsewhere.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from rewards.checkpoints.loading import check_tensors, load_config, one_line
from rewards.inference.engine import Outputs
from rewards.inference.prefix_tree import reading_order
from rewards.types import RewardError
from rollout.types import InputError

if TYPE_CHECKING:
    import vllm
    from torch.utils.hooks import RemovableHandle

__all__ = ["VLLMLabelEngine", "VLLMPoolingEngine"]

log = logging.getLogger("rewards")

# as in rollout/engines/environment.py, unknown here; the space is in GiB
_CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
# whole blocks alone are cached, and vLLM's 128 exceeds most prompts; kernels want multiples of 32
_CPU_BLOCK = 32
_held: list[object] = []  # every engine, until the process ends


class _VLLMEngine:
    """A reward model on vLLM; subclasses make an engine of each use.

    Args:
        folder: the checkpoint.
        dtype: of the weights; never left to vLLM, which takes float32 files as float16.
        max_model_len: longest sequence, None for the model's own maximum.
        gpu_memory: the share of a GPU that weights and cache may take, None for vLLM's default.
        batch_tokens: tokens per step, None for vLLM's default.

    Raises `InputError` when vLLM is not there, cannot serve the model, or has no memory for it.
    """

    _as = "reward model"
    _answer_tokens = 0
    _said_it_stays = False

    def __init__(
        self,
        folder: str,
        dtype: str,
        max_model_len: int | None,
        gpu_memory: float | None,
        batch_tokens: int | None,
        **options: object,
    ) -> None:
        vllm = _import_vllm()
        self._on_gpu = torch.cuda.is_available()
        if not self._on_gpu:
            options["block_size"] = _CPU_BLOCK
        elif gpu_memory is not None:
            options["gpu_memory_utilization"] = gpu_memory
        if batch_tokens is not None:
            options["max_num_batched_tokens"] = batch_tokens
            options["max_num_seqs"] = min(256, batch_tokens)  # each wants a token in every step
        with self._refusals_are_the_users(folder):
            self._llm: vllm.LLM = vllm.LLM(
                folder,
                dtype=dtype.removeprefix("torch."),
                max_model_len=max_model_len,
                enforce_eager=not self._on_gpu,
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                **options,
            )
            _held.append(self._llm)
            self._config = self._llm.llm_engine.vllm_config.model_config
            # the longest row that `run` takes
            self.max_length: int = self._config.max_model_len - self._answer_tokens
            self._version = vllm.__version__
            self._check()

    def describe(self) -> dict[str, object]:
        return {
            "engine": "vllm",
            "vllm": self._version,
            "architecture": self._config.architectures[0],
            "dtype": str(self._config.dtype).removeprefix("torch."),
            "device": "cuda" if self._on_gpu else "cpu",
        }

    def to(self, device: str) -> None:
        """Do nothing. On a GPU the engine keeps its memory, which is logged once: vLLM's sleep mode
        would serve one engine per process only."""
        if self._on_gpu and not self._said_it_stays:
            log.warning("the vLLM reward engine stays where it is: to(%r) does nothing", device)
            self._said_it_stays = True

    def _check(self) -> None:
        """Check that the engine computes what it should; raise where it does not."""
        raise NotImplementedError

    def _ask(self, prompts: list[vllm.TokensPrompt]) -> list[float]:
        """Return one number per prompt, in order."""
        raise NotImplementedError

    def _numbers(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> np.ndarray:
        """Return the numbers of N rows, float32 (N,). Raises `RewardError` for too long a row."""
        for row, name in zip(rows, names, strict=True):
            if len(row) > self.max_length:
                raise RewardError(
                    f"{name} has {len(row)} tokens, but this vLLM engine takes {self.max_length}: "
                    "use a smaller max_length"
                )
        values_N = np.full(len(rows), np.nan, dtype=np.float32)
        if rows:
            # rows that share a beginning are neighbours: the cache is used before it is evicted
            order = reading_order(rows)
            values_N[order] = self._ask([_prompt(rows[index]) for index in order])
            self._ask_again(rows, values_N)
        return values_N

    def _ask_again(self, rows: Sequence[Sequence[int]], values_N: np.ndarray) -> None:
        """Compute rows without a number again, each alone and in a clean cache, which stays clean.
        NaN spreads: attention masks the rest of a block by zero weights, and zero times a NaN that
        another row left there is NaN. A row that is NaN alone is so by itself.
        """
        lost = np.flatnonzero(~np.isfinite(values_N))
        if lost.size:
            log.warning("vLLM: %d of %d rows have no number: again, alone", lost.size, len(rows))
            self._clean()
        for index in lost:
            (values_N[index],) = self._ask([_prompt(rows[index])])
            if not np.isfinite(values_N[index]):
                self._clean()

    def _probe(self) -> list[list[int]]:
        """Return two rows of random ids, of unequal length."""
        draw = np.random.default_rng(0).integers(0, self._config.get_vocab_size(), size=12)
        return [draw[: min(length, self.max_length)].tolist() for length in (5, 12)]

    def _clean(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RewardError("vLLM kept its prefix cache, which holds NaN")
        self._llm.apply_model(_zero_cache)

    @contextmanager
    def _refusals_are_the_users(self, folder: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (ValueError, RuntimeError, NotImplementedError) as error:
            advice = "use engine: transformers"
            if "less than desired" in str(error):
                advice = f"lower gpu_memory, end what else uses the GPU, or {advice}"
            elif re.search("KV cache|max_model_len|out of memory|No available memory", str(error)):
                room = "gpu_memory" if self._on_gpu else "VLLM_CPU_KVCACHE_SPACE (GiB)"
                advice = f"use a smaller max_length, a larger {room}, or {advice}"
            problem = f"vLLM cannot serve it as a {self._as} ({_reason(error)})"
            raise InputError(folder, problem, advice) from error


class VLLMPoolingEngine(_VLLMEngine):
    """A sequence classifier with one output: the raw logit of the last token, no sigmoid.

    The last token is the row's own, whatever `config.pad_token_id` says. Rows longer than
    `max_length` are refused.
    """

    _as = "classifier"

    def __init__(
        self,
        folder: str,
        *,
        dtype: str,
        max_length: int | None,
        gpu_memory: float | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        _import_vllm()
        from vllm.config import PoolerConfig

        check_tensors(Path(folder), "AutoModelForSequenceClassification")
        # left on, the activation of a single output is a sigmoid
        pooler = PoolerConfig(task="classify", seq_pooling_type="LAST", use_activation=False)
        super().__init__(
            *(folder, dtype, max_length, gpu_memory, batch_tokens),
            runner="pooling",
            convert="classify",
            pooler_config=pooler,
            # old configs lack num_labels, which would then be two
            hf_overrides={"num_labels": 1},
        )

    def run(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> Outputs:
        """Return {"score": float32 (N,)} of N rows of ids, in order; NaN stays NaN."""
        return {"score": self._numbers(rows, names)}

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "head": "linear", "pooling": "last token"}

    def _ask(self, prompts: list[vllm.TokensPrompt]) -> list[float]:
        answers = self._llm.classify(prompts, use_tqdm=False)
        return [answer.outputs.probs[0] for answer in answers]

    def _check(self) -> None:
        """Check that answers are outputs of the head, unchanged: an activation or a calibration, by
        the checkpoint's config or a new default of vLLM's, would go unnoticed."""
        heard: list[float] = []
        hooks: list[RemovableHandle] = []

        def listen(model: nn.Module) -> None:
            head = getattr(model, "score", None)
            if head is None:
                raise RuntimeError(f"{type(model).__name__} has no head named score")
            hooks.append(head.register_forward_hook(hear))

        def hear(head: nn.Module, inputs: object, logits_B1: torch.Tensor) -> None:
            heard.extend(logits_B1[:, 0].float().tolist())

        self._llm.apply_model(listen)
        answers = [score for row in self._probe() for score in self._ask([_prompt(row)])]
        for hook in hooks:
            hook.remove()
        if not np.array_equal(answers, heard, equal_nan=True):
            raise RuntimeError(f"it answers {answers} where the head says {heard}")


class VLLMLabelEngine(_VLLMEngine):
    """A causal language model that answers with one of two labels: log p(first) − log p(second).

    `label_ids` are the labels' tokens. Rows longer than `max_length` are refused; one token less
    than the model's maximum leaves room for the label.

    Raises `InputError` also for labels that are the same or not in the vocabulary.
    """

    _as = "judge"
    _answer_tokens = 1

    def __init__(
        self,
        folder: str,
        *,
        label_ids: tuple[int, int],
        dtype: str,
        max_length: int | None,
        gpu_memory: float | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        _import_vllm()
        from vllm import SamplingParams

        config = load_config(Path(folder)).get_text_config()
        self._label_ids = _checked_labels(label_ids, config.vocab_size)
        check_tensors(Path(folder), "AutoModelForCausalLM")
        self._params = SamplingParams(
            max_tokens=1, temperature=0, logprob_token_ids=[*self._label_ids], detokenize=False
        )
        longest = max_length and max_length + 1
        longest = longest and min(longest, getattr(config, "max_position_embeddings", longest))
        super().__init__(
            *(folder, dtype, longest, gpu_memory, batch_tokens),
            runner="generate",
            # logits in 16 bits lie an eighth apart around 20
            hf_overrides={"head_dtype": "float32"},
        )

    def run(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> Outputs:
        """Return {"log_odds": float32 (N,)} of N rows of ids, in order; NaN stays NaN.

        A difference of log-probabilities cannot overflow as a ratio of probabilities can.
        """
        return {"log_odds": self._numbers(rows, names)}

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "head": "labels", "label_ids": list(self._label_ids)}

    def _ask(self, prompts: list[vllm.TokensPrompt]) -> list[float]:
        first, second = self._label_ids
        answers = self._llm.generate(prompts, self._params, use_tqdm=False)
        found = (answer.outputs[0].logprobs for answer in answers)
        # logprobs are never None: they are asked for
        return [of[0][first].logprob - of[0][second].logprob for of in found if of is not None]

    def _check(self) -> None:  # kernels may refuse a model that loads
        self._ask([_prompt(row) for row in self._probe()])


def _import_vllm() -> ModuleType:
    """Import vLLM after its environment, which it reads then, and the level of its log are set."""
    if importlib.util.find_spec("vllm") is None:
        advice = "pip install raft-rlhf[cpu] or raft-rlhf[gpu], or use engine: transformers"
        raise InputError("engine: vllm", "vLLM is not installed", advice)
    on_cpu = {} if torch.cuda.is_available() else _CPU_ENVIRONMENT
    for key, value in (_ENVIRONMENT | on_cpu).items():
        os.environ.setdefault(key, value)
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] != "0":
        problem = "is not 0, but reward engines run in this process"
        raise InputError("VLLM_ENABLE_V1_MULTIPROCESSING", problem, "unset it")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    import vllm

    return vllm


def _checked_labels(label_ids: tuple[int, int], vocabulary: int) -> tuple[int, int]:
    first, second = map(int, label_ids)
    if first == second or not (0 <= first < vocabulary and 0 <= second < vocabulary):
        raise InputError(
            f"label_ids={label_ids}", f"must be two different tokens of the {vocabulary} there are"
        )
    return first, second


def _prompt(row: Sequence[int]) -> vllm.TokensPrompt:
    return {"prompt_token_ids": list(row)}


def _zero_cache(model: nn.Module) -> None:
    for module in model.modules():
        cache = getattr(module, "kv_cache", ())
        for tensor in cache if isinstance(cache, list | tuple) else (cache,):
            tensor.zero_()


def _reason(error: BaseException) -> str:
    """Return the sentence that gives the reason, without pydantic's and vLLM's text around it."""
    text = one_line(error).split("Value error, ")[-1]
    more = r" Supported architectures| To allow overriding| \[type="
    return re.split(more, text)[0].strip().rstrip(".")
