from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
from engine_process import EngineExecutor, EngineProcess
from wording import words

from raft.workers.executors import Resources
from raft.workers.rollout import Policy, RolloutWorkers
from raft.workers.weight_check import Probe
from rollout.engines.base import build_engine, choose_engine
from rollout.engines.toy import write_toy
from rollout.types import EngineError, InputError, Sampling, StaleWeightsError

vllm = pytest.mark.vllm
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extras cpu, gpu)"
)

TEXTS = [
    "Once upon a time",
    "The cat",
    "He said: I am happy! She said: I am sad. They went home and",
    "a",
    "One day a bird flew over the sea, and the sun was",
]
GREEDY = Sampling(k=1, temperature=0.0, max_new_tokens=10)
DRAWN = Sampling(k=3, temperature=1.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = tiny.checkpoints(root)
    made["llama_1"] = tiny.checkpoint(root / "llama_1", "llama", seed=1)
    made["gpt2_1"] = tiny.checkpoint(root / "gpt2_1", "gpt2", seed=1)
    made["gpt2_2"] = tiny.checkpoint(root / "gpt2_2", "gpt2", seed=2)
    made["narrow"] = tiny.checkpoint(root / "narrow", "llama", head_dim=16)
    return made


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> Iterator[dict[str, EngineProcess]]:
    """Both started side by side: most of the time is imports."""
    made = {
        # more sequences in flight than vLLM's default of 256
        "llama": EngineProcess(str(folders["llama"]), max_num_seqs=300),
        "gpt2": EngineProcess(str(folders["gpt2"])),
    }
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture
def llama(engines: dict[str, EngineProcess], folders: dict[str, Path]) -> EngineProcess:
    """With its first weights, whatever the test before left in it."""
    engine = engines["llama"]
    if engine.call(version_of) != 0:
        engine.method("load_weights", str(folders["llama"]), 0)
    return engine


@pytest.fixture
def gpt2(engines: dict[str, EngineProcess]) -> EngineProcess:
    return engines["gpt2"]


# what runs beside the engine


def version_of(engine: Any) -> int:
    return engine.version


def block_size(engine: Any) -> int:
    return engine._llm.llm_engine.vllm_config.cache_config.block_size


def abandon(engine: Any, prompts: list[Any], sampling: Sampling) -> int:
    """Take one group and leave; the number of requests still in the engine."""
    groups = engine.generate(prompts, sampling, 0)
    next(groups)
    assert engine._llm.llm_engine.has_unfinished_requests()
    try:
        engine.log_probs(prompts[0].token_ids)
    except EngineError:
        pass
    else:
        raise AssertionError("a second loop over the engine's steps was allowed")
    groups.close()
    return engine._llm.llm_engine.get_num_unfinished_requests()


def break_repacking(engine: Any, broken: bool) -> None:
    from rollout.engines import vllm as vllm_engine

    if broken:
        vllm_engine._kept = vllm_engine.repack_tied_head  # type: ignore[attr-defined]
        vllm_engine.repack_tied_head = lambda model: None
    else:
        vllm_engine.repack_tied_head = vllm_engine._kept  # type: ignore[attr-defined]


# decoding


@vllm
@needs_vllm
def test_greedy_equals_a_plain_loop(llama: EngineProcess, folders: dict[str, Path]) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    found = llama.completions(prompts, GREEDY)
    for prompt in prompts:
        expected = tiny.greedy(folders["llama"], prompt.token_ids, 10)
        assert list(found[prompt.id][0].token_ids) == expected


@vllm
@needs_vllm
def test_prompt_text_and_response_text_make_the_whole(llama: EngineProcess) -> None:
    made = tiny.tokenizer()
    # a stop string that never comes must not change the text: vLLM decodes on the way then
    never = replace(DRAWN, stop=("\n\n\n\n",))
    prompts = tiny.prompts(made, TEXTS)
    groups = llama.generate(prompts, DRAWN)
    for group in groups:
        for completion in group.completions:
            whole = made.decode(
                [*group.prompt.token_ids, *completion.token_ids], skip_special_tokens=True
            )
            assert f"{group.prompt.content}{completion.text}" == whole
    assert llama.completions(prompts, never) == {g.prompt.id: g.completions for g in groups}


@vllm
@needs_vllm
def test_truncated_samples_are_known_as_such(llama: EngineProcess) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    # the ends that a hot policy of 320 tokens finds now and then
    many = replace(DRAWN, k=40, max_new_tokens=20, temperature=2.0)
    completions = [c for group in llama.generate(prompts, many) for c in group.completions]
    for completion in completions:
        ended = completion.token_ids[-1] == tiny.EOS_ID
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.truncated == (not ended)
        assert ended or len(completion.token_ids) == 20
    assert {c.finish_reason for c in completions} == {"stop", "length"}


@vllm
@needs_vllm
def test_stop_strings_are_cut_from_the_text_and_kept_in_the_ids(llama: EngineProcess) -> None:
    made = tiny.tokenizer()
    prompts = tiny.prompts(made, TEXTS)
    sampling = replace(DRAWN, k=8, temperature=2.0, max_new_tokens=30)
    free = llama.completions(prompts, sampling)
    stopped = llama.completions(prompts, replace(sampling, stop=("e", "a")))
    reasons = set()
    for key, completions in free.items():
        for whole, cut in zip(completions, stopped[key], strict=True):
            at = min((i for i in map(whole.text.find, ("e", "a")) if i >= 0), default=None)
            if at is None:
                assert cut == whole
                continue
            reasons.add(cut.finish_reason)
            assert cut.text == whole.text[:at]
            assert whole.token_ids[: len(cut.token_ids)] == cut.token_ids
            said = made.decode(cut.token_ids)
            assert "e" in said or "a" in said
            before = made.decode(cut.token_ids[:-1])
            assert "e" not in before and "a" not in before
    assert reasons == {"stop"}


# seeds


@vllm
@needs_vllm
def test_samples_depend_on_seed_and_prompt_alone(llama: EngineProcess) -> None:
    # alone, in company, in another order and after other calls; 5 × 80 > 300 sequences also queue
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    whole = llama.completions(prompts, DRAWN, seed=5)
    assert llama.completions(prompts[::-1], DRAWN, seed=5) == whole
    assert llama.completions(prompts[2:3], DRAWN, seed=5) == {"p2": whole["p2"]}
    crowd = llama.completions(prompts, replace(DRAWN, k=80), seed=5)
    assert {key: c[:3] for key, c in crowd.items()} == whole
    later = [replace(prompt, samples=(1, 2)) for prompt in prompts]
    rest = llama.completions(later, replace(DRAWN, k=2), seed=5)
    assert rest == {key: c[1:] for key, c in whole.items()}
    some = [replace(prompt, samples=(0, 2)[at % 2 :]) for at, prompt in enumerate(prompts)]
    assert llama.completions(some, DRAWN, seed=5) == {
        one.id: tuple(whole[one.id][k] for k in one.samples) for one in some
    }
    # and so are the beginnings of what is cut earlier
    for key, begun in llama.completions(prompts, replace(DRAWN, max_new_tokens=6), seed=5).items():
        assert [one.token_ids for one in begun] == [one.token_ids[:6] for one in whole[key]]
    assert llama.completions(prompts, DRAWN, seed=6) != whole
    assert all(len({c.token_ids for c in completions}) == 3 for completions in whole.values())
    twin = replace(prompts[0], id="twin")
    assert llama.completions([twin], DRAWN, seed=5)["twin"] != whole["p0"]


@vllm
@needs_vllm
def test_without_prompt_seeds_the_batch_is_reproducible(llama: EngineProcess) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    globally = replace(DRAWN, seed_per_prompt=False)
    first = llama.completions(prompts, globally, seed=5)
    assert llama.completions(prompts, globally, seed=5) == first
    assert llama.completions(prompts, globally, seed=6) != first
    assert all(c.seed is None for completions in first.values() for c in completions)


@vllm
@needs_vllm
def test_an_abandoned_generation_leaves_the_engine_usable(llama: EngineProcess) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    before = llama.completions(prompts, DRAWN, seed=1)
    # 500 sequences for 300 places: the first groups come while others wait their turn
    assert llama.call(abandon, prompts, replace(DRAWN, k=100)) == 0
    assert llama.completions(prompts, DRAWN, seed=1) == before


# new weights


@vllm
@needs_vllm
def test_prefixes_of_the_old_weights_are_forgotten(
    llama: EngineProcess, folders: dict[str, Path]
) -> None:
    # a prompt longer than a cache block, generated under the old weights right before the sync
    prompts = tiny.prompts(tiny.tokenizer(), [" ".join(TEXTS * 4)])
    ids = list(prompts[0].token_ids)
    assert llama.call(block_size) < len(ids) < tiny.CONTEXT - 10
    llama.completions(prompts, GREEDY)
    # the cached prefix has no log-probabilities: they are computed all the same
    expected = tiny.log_probs(folders["llama"], ids)
    assert llama.method("log_probs", ids) == pytest.approx(expected, abs=1e-4)
    llama.method("load_weights", str(folders["llama_1"]), 1)
    (group,) = llama.generate(prompts, GREEDY)
    greedy = tiny.greedy(folders["llama_1"], ids, 10)
    assert list(group.completions[0].token_ids) == greedy
    assert group.policy_version == 1
    assert greedy != tiny.greedy(folders["llama"], ids, 10)


@vllm
@needs_vllm
def test_tied_weights_are_wholly_replaced_at_every_sync(
    gpt2: EngineProcess, folders: dict[str, Path]
) -> None:
    # on a CPU, vLLM alone leaves the old output head behind
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    ids = list(prompts[2].token_ids)
    for version, name in enumerate(["gpt2", "gpt2_1", "gpt2_2", "gpt2"]):
        gpt2.method("load_weights", str(folders[name]), version)
        found = gpt2.method("log_probs", ids)
        assert found == pytest.approx(tiny.log_probs(folders[name], ids), abs=1e-4)
        drawn = gpt2.completions(prompts, GREEDY)
        for prompt in prompts:
            expected = tiny.greedy(folders[name], prompt.token_ids, 10)
            assert list(drawn[prompt.id][0].token_ids) == expected


@vllm
@needs_vllm
def test_stale_weights_are_refused(gpt2: EngineProcess, folders: dict[str, Path]) -> None:
    ids = tuple(tiny.prompts(tiny.tokenizer(), TEXTS)[2].token_ids)

    def policy(name: str, version: int) -> Policy:
        log_probs = tuple(tiny.log_probs(folders[name], ids))
        return Policy(str(folders[name]), version, Probe((ids,), log_probs))

    start = Policy(str(folders["gpt2"]), 0)
    workers = RolloutWorkers(EngineExecutor(gpt2), [Resources()], build_engine, start)
    workers.sync(policy("gpt2_1", 1))
    gpt2.call(break_repacking, True)
    try:
        with pytest.raises(StaleWeightsError, match="does not hold policy version 2"):
            workers.sync(policy("gpt2_2", 2))
    finally:
        gpt2.call(break_repacking, False)
    workers.sync(policy("gpt2_2", 2))


@vllm
@needs_vllm
def test_settings_that_vllm_refuses_are_the_users(llama: EngineProcess) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    with pytest.raises(InputError, match=r"sampling: .*temperature must be in \[0, 2\]"):
        llama.generate(prompts, replace(DRAWN, temperature=3.0))
    assert len(llama.generate(prompts, DRAWN)) == 5


# which engine


@needs_vllm
def test_a_model_that_vllm_does_not_know_goes_to_transformers(folders: dict[str, Path]) -> None:
    chosen = choose_engine(str(folders["gpt_neo"]))
    assert chosen.name == "transformers"
    assert chosen.reason == "vLLM does not support GPTNeoForCausalLM"
    with pytest.raises(InputError, match=words("vllm GPTNeoForCausalLM engine: auto")):
        choose_engine(str(folders["gpt_neo"]), "vllm")


@needs_vllm
def test_heads_too_small_for_the_cpu_kernels_go_to_transformers(folders: dict[str, Path]) -> None:
    chosen = choose_engine(str(folders["narrow"]), on_gpu=False)
    assert chosen.name == "transformers"
    assert "head_dim 16" in chosen.reason
    with pytest.raises(InputError, match="head_dim 16"):
        choose_engine(str(folders["narrow"]), "vllm", on_gpu=False)


@vllm
@needs_vllm
def test_models_that_vllm_serves(folders: dict[str, Path]) -> None:
    assert choose_engine(str(folders["llama"])).name == "vllm"
    assert choose_engine(str(folders["gpt2"]), "vllm").name == "vllm"


@pytest.mark.thorough
def test_engines_asked_for_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    assert choose_engine(str(folders["llama"]), "transformers").name == "transformers"
    write_toy(tmp_path / "toy", ["</s>", "a"], [0.0, 0.0])
    assert choose_engine(str(tmp_path / "toy")).name == "toy"
    with pytest.raises(InputError, match=r"toy needs a toy_policy.json"):
        choose_engine(str(folders["llama"]), "toy")
    with pytest.raises(InputError, match="unknown engine 'vlm'"):
        choose_engine(str(folders["llama"]), "vlm")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(InputError, match=r"policy\.model: cannot read the configuration"):
        choose_engine(str(empty))
