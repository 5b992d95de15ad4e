"""vLLM's scores and log-odds against transformers, computed by hand in another process.

Both engines are started once, in a process of their own: vLLM changes the threads of its process.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rewards as tiny

from rewards import RewardError
from rewards.checkpoints.settings import ModelSettings
from rewards.models.classifier import load_classifier
from rollout.types import InputError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extras cpu, gpu)"
    ),
]
# tokens per step, fewer than many rows have: these are computed in pieces
STEP = 96
CONTEXT = 256
LABELS = (70, 90)
POISON = 200
engines: dict[str, Any] = {}


def rows() -> list[list[int]]:
    """Mixed lengths and shared beginnings of more than a cache block, in no order; pad, which is
    eos here, at the end, in the middle and doubled."""
    draw = np.random.default_rng(1)

    def ids(size: int) -> list[int]:
        return [int(i) for i in draw.integers(3, 190, size=size)]

    beginning, end = ids(100), [tiny.EOS_ID]
    return [
        [tiny.BOS_ID, *ids(20), *end],
        beginning + ids(40) + end,
        [tiny.BOS_ID],
        ids(7) + end + ids(9) + end + end,
        ids(CONTEXT),
        beginning + ids(3),
        *(ids(size) for size in (1, 64, 33, 150, 12)),
        beginning + ids(90) + end,
        beginning,
    ]


# what runs beside the engines


def start(classifier: str, judge: str) -> None:
    from rewards.inference.vllm import VLLMLabelEngine

    settings = ModelSettings(
        engine="vllm", format="plain", batch_tokens=STEP, max_length=CONTEXT, bos="none"
    )
    engines["reward"] = load_classifier(Path(classifier), settings, name="tiny")
    engines["classifier"] = engines["reward"].engine
    engines["judge"] = VLLMLabelEngine(
        judge, label_ids=LABELS, dtype="float32", max_length=CONTEXT, batch_tokens=STEP
    )


def run(name: str, given: list[list[int]]) -> np.ndarray:
    (values,) = engines[name].run(given, [f"row {i}" for i in range(len(given))]).values()
    return values


def cached_tokens(name: str, given: list[list[int]]) -> list[int]:
    """How many tokens of each row vLLM took from its cache, asked one after the other."""
    llm, found = engines[name]._llm, []
    for row in given:
        prompt = [{"prompt_token_ids": row}]
        ask = llm.classify if name == "classifier" else llm.generate
        found.append(ask(prompt, use_tqdm=False)[0].num_cached_tokens)
    return found


def forget(name: str) -> None:
    assert engines[name]._llm.reset_prefix_cache()


def describe(name: str) -> dict[str, Any]:
    engines[name].to("cpu")  # changes nothing here
    return engines[name].describe()


def score(texts: list[str]) -> np.ndarray:
    return engines["reward"].score(texts)


def check_again_with_a_sigmoid() -> str:
    """The check at the start of an engine whose activation was not switched off."""
    from functools import partial

    from vllm import PoolingParams

    engine = engines["classifier"]
    ask = engine._llm.classify
    engine._llm.classify = partial(ask, pooling_params=PoolingParams(use_activation=True))
    try:
        engine._check()
    except RuntimeError as error:
        return str(error)
    finally:
        engine._llm.classify = ask
    return "nothing was noticed"


def refused(folder: str) -> str:
    try:
        load_classifier(Path(folder), ModelSettings(engine="vllm", bos="none"), name="refused")
    except InputError as error:
        return str(error)
    return "it was loaded"


def refused_labels(folder: str, labels: tuple[int, int]) -> str:
    from rewards.inference.vllm import VLLMLabelEngine

    try:
        VLLMLabelEngine(folder, label_ids=labels, dtype="float32", max_length=CONTEXT)
    except InputError as error:
        return str(error)
    return "it was loaded"


# the checkpoints and the process


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pad == eos, a token that makes everything NaN, and an old config without `num_labels`."""
    from safetensors.torch import load_file, save_file

    made = tiny.tokenizer(pad=tiny.EOS)
    folder = tiny.checkpoint(
        tmp_path_factory.mktemp("classifier"), "llama", made, pad_token_id=tiny.EOS_ID
    )
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][POISON] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("id2label") and config.pop("label2id")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny.config("llama", tie_word_embeddings=False))
    # log-odds of some hundreds: e to that power overflows
    torch.nn.init.normal_(model.lm_head.weight, std=20.0)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call(classifier: Path, judge: Path) -> Iterator[Call]:
    """`function(*arguments)` beside the engines; both must be picklable by name."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        process.submit(start, str(classifier), str(judge)).result(timeout=240)
        yield lambda function, *given: process.submit(function, *given).result(timeout=300)


@pytest.fixture(scope="module")
def scores(classifier: Path) -> list[float]:
    """The last hidden state of the row's own last token, times the head."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(classifier, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows()]
    weight = head_weight(classifier)
    return [float(state @ weight) for state in states]


@pytest.fixture(scope="module")
def log_odds(judge: Path) -> list[float]:
    """From the logits of the whole vocabulary."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(judge, dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for row in rows():
            logits = model(torch.tensor([row[: CONTEXT - 1]])).logits[0, -1]
            found.append(float(logits[LABELS[0]] - logits[LABELS[1]]))
    return found


def head_weight(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["score.weight"][0]


def questions() -> list[list[int]]:
    """A judge's prompts, which leave room for the answer."""
    return [row[: CONTEXT - 1] for row in rows()]


# classifiers


def test_raw_logits_of_the_last_token_as_transformers_computes_them(call: Call, scores) -> None:
    found = call(run, "classifier", rows())
    assert found.dtype == np.float32 and found.shape == (len(rows()),)
    np.testing.assert_allclose(found, scores, atol=1e-4)
    # no sigmoid could give these
    assert min(scores) < -1 and max(scores) > 2 and np.std(scores) > 1


def test_scores_do_not_depend_on_order_company_or_cache(call: Call, scores) -> None:
    for given in (rows()[::-1], [row for row in rows() for _ in range(3)]):
        expected = [scores[rows().index(row)] for row in given]
        np.testing.assert_allclose(call(run, "classifier", given), expected, atol=1e-4)
    call(forget, "classifier")
    assert max(call(cached_tokens, "classifier", rows())) >= 64
    np.testing.assert_allclose(call(run, "classifier", rows()), scores, atol=1e-4)
    alone = []
    for row in rows():
        call(forget, "classifier")
        alone.append(call(run, "classifier", [row])[0])
    np.testing.assert_allclose(alone, scores, atol=1e-4)


def test_nan_stays_with_its_row(call: Call, scores) -> None:
    given = rows()
    given[1:1] = [[5, POISON, 7], [POISON] * 150]
    found = call(run, "classifier", given)
    assert np.isnan(found[1:3]).all()
    np.testing.assert_allclose(np.delete(found, [1, 2]), scores, atol=1e-4)
    # blocks of the cache that held NaN are taken by other rows
    call(forget, "classifier")
    np.testing.assert_allclose(call(run, "classifier", rows()), scores, atol=1e-4)


def test_an_activation_is_noticed_when_the_engine_starts(call: Call) -> None:
    assert "where the head says" in call(check_again_with_a_sigmoid)


def test_rows_beyond_the_maximum_are_refused(call: Call) -> None:
    for name, longest in (("classifier", CONTEXT), ("judge", CONTEXT - 1)):
        assert np.isfinite(call(run, name, [[5] * longest])).all()
        with pytest.raises(RewardError, match=rf"row 1 has {longest + 1} tokens"):
            call(run, name, [[5], [5] * (longest + 1)])
        assert call(run, name, []).shape == (0,)


def test_a_reward_model_on_vllm_scores_as_one_on_transformers(call: Call, classifier: Path) -> None:
    texts = ["a text", "one with </s> in the middle and at the end</s>", "x" * 300]
    settings = ModelSettings(engine="auto", format="plain", max_length=CONTEXT, bos="none")
    reference = load_classifier(classifier, settings, name="tiny")
    assert reference.describe()["engine"] == "transformers"
    np.testing.assert_allclose(call(score, texts), reference.score(texts), atol=1e-4)


def test_records_say_what_ran(call: Call) -> None:
    for name in ("classifier", "judge"):
        found = call(describe, name)
        assert found["engine"] == "vllm" and found["dtype"] == "float32"
        assert found["device"] == "cpu"
    assert call(describe, "classifier")["architecture"] == "LlamaForSequenceClassification"


# judges


def test_log_odds_of_two_labels_as_transformers_computes_them(call: Call, log_odds) -> None:
    found = call(run, "judge", questions())
    assert found.dtype == np.float32
    assert np.abs(log_odds).max() > 100 and min(log_odds) < 0 < max(log_odds)
    np.testing.assert_allclose(found, log_odds, rtol=2e-6, atol=1e-4)


def test_log_odds_do_not_depend_on_order_or_cache(call: Call, log_odds) -> None:
    call(forget, "judge")
    found = call(run, "judge", questions()[::-1])
    np.testing.assert_allclose(found, log_odds[::-1], rtol=2e-6, atol=1e-4)
    assert max(call(cached_tokens, "judge", questions())) >= 64
    np.testing.assert_allclose(call(run, "judge", questions()), log_odds, rtol=2e-6, atol=1e-4)


# what cannot be served


def test_models_that_vllm_cannot_serve_are_refused_in_one_line(
    call: Call, tmp_path: Path, scores, log_odds
) -> None:
    tiny.checkpoint(tmp_path / "neo", "gpt_neo")
    tiny.checkpoint(tmp_path / "narrow", "gpt2")  # 16 numbers per head
    for name, why in (("neo", "GPTNeoForSequenceClassification"), ("narrow", "head_dim=16")):
        said = call(refused, str(tmp_path / name))
        assert why in said and "engine: transformers" in said
        assert "\n" not in said and len(said) < 400
    # the engines before are none the worse for it, and answer as they did
    np.testing.assert_allclose(call(run, "classifier", rows()), scores, atol=1e-4)
    np.testing.assert_allclose(call(run, "judge", questions()), log_odds, rtol=2e-6, atol=1e-4)


def test_a_checkpoint_that_lacks_part_of_a_merged_tensor_is_refused(
    call: Call, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.checkpoint(tmp_path / "part", "llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = call(refused, str(folder))
    assert "lacks the tensor model.layers.1.mlp.up_proj.weight (1 in all)" in said


def test_labels_that_are_none_are_refused(call: Call, judge: Path) -> None:
    assert "two different tokens" in call(refused_labels, str(judge), (7, 7))
    assert "two different tokens" in call(refused_labels, str(judge), (7, 259))
