from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
import torch

from rollout.engines.transformers import TransformersEngine, _sampler
from rollout.seeds import hashed_uniform
from rollout.types import Completion, Group, Sampling, StaleWeightsError

TEXTS = [
    "Once upon a time",
    "The cat",
    "He said: I am happy! She said: I am sad. They went home and",
    "a",
    "One day a bird flew over the sea, and the sun was",
]
SHORT = Sampling(k=3, temperature=1.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = tiny.checkpoints(root)
    made["other"] = tiny.checkpoint(root / "other", "llama", seed=7)
    return made


@pytest.fixture(scope="module")
def llama(folders: dict[str, Path]) -> TransformersEngine:
    return TransformersEngine(str(folders["llama"]), batch_size=64)


def by_id(groups: Any) -> dict[str, Group]:
    return {group.prompt.id: group for group in groups}


def drawn(groups: Any) -> dict[str, tuple[Completion, ...]]:
    return {group.prompt.id: group.completions for group in groups}


def total_variation(counts: np.ndarray, exact: np.ndarray) -> float:
    return float(0.5 * np.abs(counts / counts.sum() - exact).sum())


def exact_distribution(logits: list[float], sampling: Sampling) -> np.ndarray:
    """softmax(logits / T) cut to top_k, then to the smallest set that reaches top_p."""
    scaled = np.array(logits) / sampling.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p)
    keep = np.zeros(len(p), bool)
    keep[order[: sampling.top_k or len(p)]] = True
    p = np.where(keep, p, 0) / p[keep].sum()
    before = np.cumsum(p[order]) - p[order]
    keep = np.zeros(len(p), bool)
    keep[order[before < sampling.top_p]] = True
    return np.where(keep, p, 0) / p[keep].sum()


LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0, 1.5]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=1.7),
        Sampling(temperature=1.0, top_k=3),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=1.5, top_k=4, top_p=0.85),
    ],
    ids=lambda s: f"T{s.temperature}-k{s.top_k}-p{s.top_p}",
)
def test_gumbel_sampler_draws_from_the_softmax(sampling: Sampling) -> None:
    # consecutive seeds, as the K samples of one prompt have them; 20 draws from each stream
    streams, draws = 1000, 20
    process = _sampler(sampling, list(range(streams)))
    logits: Any = torch.tensor([LOGITS]).expand(streams, -1)
    ids: Any = torch.zeros(streams, 1, dtype=torch.long)
    counts = np.zeros(len(LOGITS))
    for _ in range(draws):
        counts += np.bincount(process(ids, logits).argmax(-1).numpy(), minlength=len(LOGITS))
    exact = exact_distribution(LOGITS, sampling)
    assert counts[exact == 0].sum() == 0
    # the mean of the total variation distance of an honest sampler is about 0.006 here
    assert total_variation(counts, exact) < 0.02
    support = exact > 0
    expected = exact[support] * counts.sum()
    chi_square = float(((counts[support] - expected) ** 2 / expected).sum())
    assert chi_square < 25  # five degrees of freedom at most: p < 2e-4


def test_engine_draws_from_the_models_softmax(tmp_path: Path) -> None:
    # end to end on a model whose next-token distribution is known and always the same
    engine = TransformersEngine(
        str(tiny.fixed_logits(tmp_path / "fixed", [-1e4, -1e4, -1e4, *LOGITS])), batch_size=128
    )
    prompt = tiny.prompts(tiny.tokenizer(), ["Once"])[0]
    sampling = Sampling(k=128, temperature=0.8, max_new_tokens=30)
    (group,) = engine.generate([prompt], sampling, seed=3)
    ids = np.array([c.token_ids for c in group.completions]) - 3
    exact = exact_distribution(LOGITS, sampling)
    counts = np.bincount(ids.ravel(), minlength=len(LOGITS)).astype(float)
    assert total_variation(counts, exact) < 0.03
    # samples of one prompt are independent: pairs of neighbours agree as often as chance has it
    agreement = float((ids[:-1] == ids[1:]).mean())
    assert agreement == pytest.approx(float((exact**2).sum()), abs=0.03)


@pytest.mark.slow
def test_samples_depend_on_seed_prompt_and_number_alone(folders: dict[str, Path]) -> None:
    # batch size, order, neighbours and what was drawn before do not matter
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    engine = TransformersEngine(str(folders["llama"]), batch_size=64)
    whole = drawn(engine.generate(prompts, SHORT, seed=5))
    small = TransformersEngine(str(folders["llama"]), batch_size=2)
    assert drawn(small.generate(prompts[::-1], SHORT, seed=5)) == whole
    assert drawn(engine.generate(prompts[1:3], SHORT, seed=5)) == {
        key: whole[key] for key in ("p1", "p2")
    }
    # fewer samples are the first ones of many
    two = drawn(engine.generate(prompts, replace(SHORT, k=2), seed=5))
    assert two == {key: completions[:2] for key, completions in whole.items()}
    # and a later wave goes on with the next
    later = [replace(prompt, samples=(1, 2)) for prompt in prompts]
    rest = drawn(engine.generate(later, replace(SHORT, k=2), seed=5))
    assert rest == {key: completions[1:] for key, completions in whole.items()}
    # of each prompt those that are asked for
    some = [replace(prompt, samples=(0, 2)[at % 2 :]) for at, prompt in enumerate(prompts)]
    assert drawn(engine.generate(some, SHORT, seed=5)) == {
        one.id: tuple(whole[one.id][k] for k in one.samples) for one in some
    }
    # and so are the beginnings of what is cut earlier
    for key, begun in drawn(engine.generate(prompts, replace(SHORT, max_new_tokens=5), 5)).items():
        assert [one.token_ids for one in begun] == [one.token_ids[:5] for one in whole[key]]
    assert drawn(engine.generate(prompts, SHORT, seed=6)) != whole
    # a prompt's samples differ from one another, and from those of the same text under another id
    assert len({c.token_ids for c in whole["p0"]}) == 3
    twin = replace(prompts[0], id="twin")
    assert drawn(engine.generate([twin], SHORT, seed=5))["twin"] != whole["p0"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_greedy_equals_a_plain_loop(folders: dict[str, Path], family: str) -> None:
    # left padding changes nothing: prompts of very different length share one batch
    folder = folders[family]
    engine = TransformersEngine(str(folder), batch_size=64)
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    greedy = Sampling(k=1, temperature=0.0, max_new_tokens=10)
    groups = by_id(engine.generate(prompts, greedy, seed=0))
    assert sorted(groups) == ["p0", "p1", "p2", "p3", "p4"]
    for prompt in prompts:
        expected = tiny.greedy(folder, prompt.token_ids, 10)
        assert list(groups[prompt.id].completions[0].token_ids) == expected


@pytest.mark.slow
def test_checkpoints_own_generation_settings_do_not_leak_in(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    # `generate` fills every setting that is left open from the model's generation_config.json
    folder = shutil.copytree(folders["llama"], tmp_path / "opinionated")
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": 1, "do_sample": true, "temperature": 0.3, "top_k": 2, "top_p": 0.5,'
        ' "repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "max_length": 20}'
    )
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    sampling = Sampling(k=2, temperature=1.0, max_new_tokens=30)
    plain = TransformersEngine(str(folders["llama"])).generate(prompts, sampling, seed=1)
    found = TransformersEngine(str(folder)).generate(prompts, sampling, seed=1)
    assert drawn(found) == drawn(plain)


def test_end_of_text_is_kept_and_named(tmp_path: Path) -> None:
    # EOS with probability 1/3: some samples end by it and keep it, the others are cut, without it
    folder = tiny.fixed_logits(tmp_path / "ends", [-1e4, 0.0, -1e4, 0.0, 0.0])
    engine = TransformersEngine(str(folder))
    prompt = tiny.prompts(tiny.tokenizer(), ["Once"])[0]
    (group,) = engine.generate([prompt], Sampling(k=60, max_new_tokens=4), seed=0)
    for completion in group.completions:
        ended = completion.token_ids[-1] == tiny.EOS_ID
        assert completion.finish_reason == ("stop" if ended else "length")
        assert tiny.EOS_ID not in completion.token_ids[:-1]
        assert tiny.PAD_ID not in completion.token_ids
        assert ended or len(completion.token_ids) == 4
        assert tiny.EOS not in completion.text
    assert {c.finish_reason for c in group.completions} == {"stop", "length"}
    # P(no EOS in four tokens) = (2/3)^4 = 0.2
    cut = sum(c.truncated for c in group.completions) / 60
    assert cut == pytest.approx(0.2, abs=0.15)


def test_min_new_tokens_hold_the_end_back(tmp_path: Path) -> None:
    folder = tiny.fixed_logits(tmp_path / "ends", [-1e4, 5.0, -1e4, 0.0, 0.0])
    prompt = tiny.prompts(tiny.tokenizer(), ["Once"])[0]
    sampling = Sampling(k=20, max_new_tokens=8, min_new_tokens=5)
    (group,) = TransformersEngine(str(folder)).generate([prompt], sampling, seed=0)
    assert min(len(c.token_ids) for c in group.completions) == 6  # five tokens, then the EOS
    assert all(tiny.EOS_ID not in c.token_ids[:5] for c in group.completions)


def test_the_tokenizers_end_counts_beside_the_generation_configs(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    # vLLM stops at both, so both engines must: chat models name one here and another one there
    folder = shutil.copytree(folders["llama"], tmp_path / "two_ends")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert TransformersEngine(str(folder))._eos == {tiny.EOS_ID, 5, 6}


@pytest.mark.parametrize("pad", [tiny.PAD, None])
def test_stop_strings_are_cut_from_the_text_and_kept_in_the_ids(
    tmp_path: Path, pad: str | None
) -> None:
    # x, y and z with equal probability; "zx" ends a sample. Without a PAD token, rows that stopped
    # are filled up with EOS, which was never drawn.
    made = tiny.tokenizer()
    chosen = made.convert_tokens_to_ids(["x", "y", "z"])
    logits = [-1e4] * 320
    for token in chosen:
        logits[token] = 0.0
    folder = tiny.fixed_logits(tmp_path / "words", logits)
    tiny.tokenizer(pad=pad).save_pretrained(folder)
    engine = TransformersEngine(str(folder))
    # the prompt's own "zx" stops nothing
    prompt = tiny.prompts(made, ["a zx"])[0]
    sampling = Sampling(k=40, max_new_tokens=8, stop=("zx",))
    (group,) = engine.generate([prompt], sampling, seed=0)
    whole = engine.generate([prompt], replace(sampling, stop=()), seed=0)
    (unstopped,) = whole
    for stopped, free in zip(group.completions, unstopped.completions, strict=True):
        at = free.text.find("zx")
        if at < 0:
            assert stopped == free
            continue
        assert stopped.text == free.text[:at]
        assert stopped.token_ids == free.token_ids[: at + 2]  # one token a letter
        assert stopped.finish_reason == "stop"
    assert {c.finish_reason for c in group.completions} == {"stop", "length"}


def test_stop_strings_are_searched_in_the_response_alone(tmp_path: Path) -> None:
    # a stop string that begins in the prompt is none of the response's; the library's own
    # criterion ends such rows at once
    made = tiny.tokenizer()
    letter = made("x", add_special_tokens=False)["input_ids"][0]
    logits = [-1e4] * 320
    logits[letter] = 0.0
    folder = tiny.fixed_logits(tmp_path / "x", logits)
    prompt = tiny.prompts(made, ["ax"])[0]
    sampling = Sampling(k=1, max_new_tokens=5, stop=("axx",))
    (group,) = TransformersEngine(str(folder)).generate([prompt], sampling, seed=0)
    assert group.completions[0].token_ids == (letter,) * 5
    assert group.completions[0].finish_reason == "length"
    # and what the first min_new_tokens tokens say stops nothing
    sampling = Sampling(k=1, max_new_tokens=9, stop=("xx",), min_new_tokens=4)
    (group,) = TransformersEngine(str(folder)).generate([prompt], sampling, seed=0)
    assert group.completions[0] == Completion(
        "xxx", (letter,) * 5, "stop", group.completions[0].seed
    )


def test_prompt_text_and_response_text_make_the_whole(llama: TransformersEngine) -> None:
    made = tiny.tokenizer()
    for prompt, group in by_prompt(llama, made).items():
        for completion in group.completions:
            whole = made.decode(
                [*group.prompt.token_ids, *completion.token_ids], skip_special_tokens=True
            )
            assert f"{group.prompt.content}{completion.text}" == whole, prompt


def by_prompt(engine: TransformersEngine, made: Any) -> dict[str, Group]:
    return by_id(engine.generate(tiny.prompts(made, TEXTS), SHORT, seed=2))


def test_new_weights_are_exactly_the_other_models(folders: dict[str, Path]) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    engine = TransformersEngine(str(folders["llama"]))
    before = drawn(engine.generate(prompts, SHORT, seed=4))
    engine.load_weights(str(folders["other"]), version=3)
    groups = list(engine.generate(prompts, SHORT, seed=4))
    assert {group.policy_version for group in groups} == {3}
    other = TransformersEngine(str(folders["other"]), version=9)
    expected = list(other.generate(prompts, SHORT, seed=4))
    assert drawn(groups) == drawn(expected) != before
    assert {group.policy_version for group in expected} == {9}


def test_weights_that_change_in_mid_generation_are_refused(folders: dict[str, Path]) -> None:
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    engine = TransformersEngine(str(folders["llama"]), batch_size=3)
    groups = engine.generate(prompts, SHORT, seed=4)
    assert next(groups).policy_version == 0
    engine.load_weights(str(folders["other"]), version=1)
    with pytest.raises(StaleWeightsError, match="went from version 0 to 1"):
        list(groups)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_log_probs_equal_a_forward_pass_by_hand(folders: dict[str, Path], family: str) -> None:
    ids = tiny.tokenizer()(TEXTS[2])["input_ids"]
    found = TransformersEngine(str(folders[family])).log_probs(ids)
    assert found == pytest.approx(tiny.log_probs(folders[family], ids), abs=1e-5)


# noise


def split_mix(state: int, number: int) -> int:
    """The number-th of SplitMix64, from its paper."""
    z = (state + number * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_noise_is_a_published_generators() -> None:
    assert split_mix(1234567, 1) == 6457827717110365317  # as the reference implementation prints
    keys = [0, 1, -1, 2**63 - 1, -(2**63)]
    found = hashed_uniform(torch.tensor(keys), 50)
    expected = [
        [((split_mix(key % 2**64, number) >> 11) + 0.5) / 2**53 for number in range(1, 51)]
        for key in keys
    ]
    assert found.tolist() == expected
    assert found.min() > 0 and found.max() < 1


def test_the_highest_noise_is_finite() -> None:
    state = 2**64 - 1  # from what the generator gives back to the state that gives it
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        mixed = state
        for _ in range(64 // shift + 1):
            state = mixed ^ (state >> shift)
        state = state * pow(factor, -1, 2**64) % 2**64
    state = (state - 0x9E3779B97F4A7C15) % 2**64
    assert split_mix(state, 1) == 2**64 - 1
    signed = state - 2**64 if state >= 2**63 else state
    assert 0.999 < hashed_uniform(torch.tensor([signed]), 1).item() < 1


def test_noise_of_neighbours_is_unrelated() -> None:
    # seeds of one prompt's samples follow each other, as do steps and tokens
    sampler = _sampler(Sampling(temperature=1.0), range(40))[-1]
    made = torch.stack([sampler(None, torch.zeros(40, 1000)) for _ in range(30)]).numpy()
    assert made.mean() == pytest.approx(0.5772, abs=5e-3)
    assert made.var() == pytest.approx(math.pi**2 / 6, abs=0.02)
    for axis in range(3):
        first, second = (np.take(made, range(n, made.shape[axis] - 1 + n), axis) for n in (0, 1))
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / 1000
