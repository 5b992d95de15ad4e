"""Generation with vLLM in this process, from token ids; one engine lives as long as the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from rollout.engines.base import ADAPTER_FOLDER, AdapterSync, context_length
from rollout.engines.environment import prepare_vllm
from rollout.engines.transfer import SharedChunk, Transfer
from rollout.engines.vllm_checks import (
    check_complete,
    checksums_of,
    memory_as_input_error,
    options_as_input_error,
    repack_tied_head,
    tensor_names,
)
from rollout.engines.vllm_transfer import begin_taking, receive_weights, take_chunk
from rollout.seeds import derive_seed
from rollout.text.decode import Decoder, decode_continuations
from rollout.text.printable import one_line
from rollout.types import (
    Completion,
    EngineError,
    FinishReason,
    Group,
    InputError,
    Prompt,
    Sampling,
)

if TYPE_CHECKING:
    import vllm
    from vllm.lora.request import LoRARequest

_ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values of max_lora_rank in vLLM
_CPU_BATCHED_TOKENS = 4096  # vLLM's own default on a CPU


class VLLMEngine:
    """vLLM behind the `Engine` protocol, on CPU or GPU.

    Weights are updated in place by `reload_weights`: a restart takes as long as some 300 syncs.
    """

    name = "vllm"

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        tensor_parallel: int = 1,
        gpu_memory: float = 0.85,
        max_num_seqs: int | None = None,
        version: int = 0,
        seed: int = 0,
        can_sleep: bool = False,
        adapter: AdapterSync | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        import torch

        vllm = import_vllm()
        on_gpu = torch.cuda.is_available()
        options = dict(options or {})
        if max_num_seqs:
            options["max_num_seqs"] = max_num_seqs
        if on_gpu:
            options |= {"gpu_memory_utilization": gpu_memory, "enable_sleep_mode": can_sleep}
            options |= {"tensor_parallel_size": tensor_parallel}
            if tensor_parallel > 1:  # in a placement group vLLM would ask Ray for more GPUs
                options |= {"distributed_executor_backend": "mp"}
        else:
            # a prompt split over two steps would have its random stream turned back, which CPU
            # generators cannot do ("CPU Generator does not use offset")
            context = max_model_len or context_length(model)
            options = {"enforce_eager": True, **options, "enable_chunked_prefill": False}
            options |= {"max_num_batched_tokens": max(_CPU_BATCHED_TOKENS, context)}
        if adapter is not None:
            rank = next(rank for rank in _ADAPTER_RANKS if rank >= adapter.rank)
            options |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
        # "auto" would load float32 checkpoints as float16
        self.dtype = dtype if dtype != "auto" else ("bfloat16" if on_gpu else "float32")
        with options_as_input_error(), memory_as_input_error(gpu_memory if on_gpu else None):
            self._llm: vllm.LLM = vllm.LLM(
                adapter.base if adapter else model,
                dtype=self.dtype,
                max_model_len=max_model_len,
                seed=seed % 2**31,
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                **options,
            )
        self._names = tensor_names(model)
        self._lora = adapter
        self._adapter: LoRARequest | None = None
        self._on_gpu = on_gpu
        self._can_sleep = can_sleep and on_gpu
        self._tokenizer = cast(Decoder, self._llm.get_tokenizer())
        self._calls = 0
        self._generating = self._asleep = False
        self.version = version
        if adapter is not None and version:
            self._load_adapter(model, version)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
    ) -> Iterator[Group]:
        self._check_idle()
        self._calls += 1
        engine = self._llm.llm_engine
        # on a GPU requests draw by seeds anyway: those of ours differ between workers and restarts
        seeded = sampling.seed_per_prompt or self._on_gpu
        if not seeded:
            self._seed_globally(seed)
        # request -> (place of its prompt, number of its first sample, seed of that sample)
        waiting: dict[str, tuple[int, int, int | None]] = {}
        drawn: list[dict[int, Sequence[Completion]]] = [{} for _ in prompts]
        version = self.version
        self._generating = True
        try:
            for place, prompt in enumerate(prompts):
                for run in _runs(sampling.numbers(prompt)):
                    request = f"{self._calls}-{place}-{run[0]}"
                    own = derive_seed(seed, prompt.id) + run[0] if seeded else None
                    engine.add_request(
                        request,
                        {"prompt_token_ids": list(prompt.token_ids)},
                        self._params(sampling, len(run), own),
                        lora_request=self._adapter,
                    )
                    waiting[request], drawn[place][run[0]] = (place, run[0], own), ()
            while engine.has_unfinished_requests():
                for output in cast("list[vllm.RequestOutput]", engine.step()):
                    if output.finished:
                        place, first, own = waiting.pop(output.request_id)
                        drawn[place][first] = self._completions(prompts[place], output, own)
                        if all(drawn[place].values()):
                            whole, drawn[place] = tuple(chain(*drawn[place].values())), {}
                            yield Group(prompts[place], whole, version)
            if waiting:
                raise EngineError(f"vLLM lost {len(waiting)} requests of {len(prompts)} prompts")
        finally:
            self._generating = False
            if waiting:  # the caller stopped listening, or a step failed
                engine.abort_request(list(waiting), internal=False)

    def load_weights(self, path: str, version: int) -> None:
        if self._lora is not None:
            self._check_idle()
            self.wake()
            self._load_adapter(path, version)
        else:
            self._begin_sync(path)
            self._llm.collective_rpc(  # pyright: ignore[reportUnknownMemberType] - a bare tuple
                "reload_weights", kwargs={"weights_path": path}
            )
        self.end_sync(version)

    def receive(self, path: str, version: int, given: Transfer) -> None:
        """Replace the weights in place by those that trainers send; `path` holds them as well."""
        self._begin_sync(path)
        receive_weights(self._llm, path, given)
        self.end_sync(version)

    def begin_taking(self, path: str, names: Sequence[str]) -> None:
        """Begin to replace the weights by a trainer's on this GPU; `take` and `end_sync` follow."""
        self._begin_sync(path)
        begin_taking(self._llm, path, names)

    def take(self, chunk: SharedChunk | None) -> None:
        """Copy a chunk into the weights; None: all have come."""
        take_chunk(self._llm, chunk)

    def _begin_sync(self, path: str) -> None:
        self._check_idle()
        self._names = check_complete(path, self._names)
        if self._asleep:  # the cache takes no memory before the weights are there
            self._llm.wake_up(tags=["weights"])

    def end_sync(self, version: int) -> None:
        """Wake the cache, empty, after the weights have been replaced by those of `version`."""
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if not self._on_gpu and self._lora is None:
            self._llm.apply_model(repack_tied_head)
        # a reload leaves the prefixes that the old weights computed in the cache
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM kept its prefix cache after a weight update")
        self.version = version

    def _load_adapter(self, checkpoint: str, version: int) -> None:
        """Load a policy version's adapter under its own id, so that no cached one is reused."""
        from vllm.lora.request import LoRARequest

        path = Path(checkpoint) / ADAPTER_FOLDER
        names = tensor_names(str(path))
        if not names or (self._adapter is not None and names != self._adapter_names):
            raise InputError(
                path,
                "is no whole adapter" if not names else "has other tensors than the one before it",
                "delete the checkpoint: the same command trains it again",
            )
        request = LoRARequest(f"policy-{version}", version, str(path))
        try:
            self._llm.llm_engine.add_lora(request)
        except ValueError as error:
            raise InputError(
                "policy.lora_sync", f"vLLM refuses the adapter ({one_line(error)})", "use merged"
            ) from error
        self._adapter, self._adapter_names = request, names

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        from vllm import SamplingParams

        self._check_idle()
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        output = self._llm.generate(  # pyright: ignore[reportUnknownMemberType] - a bare tuple
            [{"prompt_token_ids": list(token_ids)}],
            params,
            use_tqdm=False,
            lora_request=self._adapter,
        )[0]
        rows = output.prompt_logprobs or []
        return [
            row[token].logprob
            for token, row in zip(token_ids[1:], rows[1:], strict=True)
            if row is not None
        ]

    def checksums(self) -> list[dict[str, int]]:
        checksums = partial(checksums_of, adapters=self._lora is not None)
        return [one for one in self._llm.apply_model(checksums) if one is not None]

    def sleep(self, forget: bool = False) -> None:
        if self._can_sleep and not self._asleep:
            # level 1 copies the weights to CPU memory, level 2 drops them; an adapter's stay
            self._llm.sleep(level=2 if forget and self._lora is None else 1)
            self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _check_idle(self) -> None:
        """Refuse a call during `generate`: two loops would take each other's samples."""
        if self._generating:
            raise EngineError("vLLM is still generating: finish or close that generator first")

    def _seed_globally(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]

    def _params(self, sampling: Sampling, count: int, seed: int | None) -> vllm.SamplingParams:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        try:
            return SamplingParams(
                n=count,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                min_tokens=sampling.min_new_tokens,
                stop=list(sampling.stop) or None,
                seed=seed,
                # decoding once at the end is a third faster; stop strings need it on the way
                detokenize=bool(sampling.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except (ValueError, VLLMValidationError) as error:
            raise InputError("sampling", f"vLLM refuses it: {error}") from error

    def _completions(
        self, prompt: Prompt, output: vllm.RequestOutput, seed: int | None
    ) -> tuple[Completion, ...]:
        drawn = sorted(output.outputs, key=lambda completion: completion.index)
        ids = [tuple(completion.token_ids) for completion in drawn]
        texts = decode_continuations(self._tokenizer, prompt.token_ids, ids)
        return tuple(
            Completion(
                # where a stop string ended it, vLLM has cut the text
                text=completion.text if isinstance(completion.stop_reason, str) else text,
                token_ids=token_ids,
                finish_reason=_finish_reason(completion.finish_reason),
                seed=None if seed is None else seed + number,
            )
            for number, (completion, token_ids, text) in enumerate(
                zip(drawn, ids, texts, strict=True)
            )
        )


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of consecutive numbers; one request draws a run, with consecutive seeds."""
    for _, run in groupby(enumerate(numbers), lambda one: one[1] - one[0]):
        yield [number for _, number in run]


def serves_adapters(architectures: Sequence[str]) -> bool:
    """Return whether vLLM can apply LoRA adapters to a model of one of these architectures."""
    models = import_vllm().ModelRegistry.models
    known = [models[name] for name in architectures if name in models]
    return any(getattr(one.load_model_cls(), "supports_lora", False) for one in known)


def import_vllm() -> ModuleType:
    """Return the module `vllm`, imported after the environment variables that it reads are set."""
    import torch

    prepare_vllm(on_gpu=torch.cuda.is_available())
    import vllm

    return vllm


def _finish_reason(reason: str | None) -> FinishReason:
    if reason == "stop":
        return "stop"
    if reason == "length":
        return "length"
    raise EngineError(f"vLLM ended a sample with finish_reason {reason!r}")
