"""Feature extraction against plain forward passes, kills at any chunk, and ridge regression."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rewards as tiny
import torch
from wording import words

from rewards.checkpoints.loading import load_config, load_tokenizer, make_encoder
from rewards.checkpoints.settings import ModelSettings
from rewards.inference.backbone import Backbone
from rewards.models.transformer import load_transformer
from rewards.training import features
from rewards.training.features import StateReader, last_token
from rewards.training.ridge import PUBLISHED_ALPHAS, fit_attributes, ridge_path
from rewards.types import RewardError
from rollout.types import InputError

CONVERSATIONS = [
    tiny.chat(f"a question that is long enough to be shared, {n // 3}", "an answer " * (n % 3 + 1))
    for n in range(23)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.armorm(tmp_path_factory.mktemp("features") / "model")


def parts(folder: Path):
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    heads = ["regression_layer.", "reward_transform_matrix", "gating."]
    model = load_transformer(folder, config, torch.float32, torch.device("cpu"), heads=heads)
    encoder = make_encoder(
        tokenizer, config, ModelSettings(bos="single"), name="tiny", vocabulary=config.vocab_size
    )
    return Backbone(model), encoder


def extract(backbone, *arguments, batch_tokens=None, **settings):
    return features.extract(StateReader(backbone, batch_tokens), *arguments, **settings)


class SeveralReaders(StateReader):
    """Takes calls from threads, and answers in any order."""

    calls_at_once = 3

    def __init__(self, backbone):
        super().__init__(backbone)
        self.alone, self.threads = threading.Lock(), set()
        self.draw = random.Random(1)

    def states(self, rows, places, names):
        time.sleep(self.draw.random() / 20)
        with self.alone:
            self.threads.add(threading.get_ident())
            return super().states(rows, places, names)


def test_several_readers_make_the_file_of_one(folder, tmp_path):
    backbone, encoder = parts(folder)
    given: dict[str, Any] = {"states": 2, "chunk_rows": 3, "longest": 170}
    rows = [*CONVERSATIONS[:9], tiny.chat("too long " * 60, "for it"), *CONVERSATIONS[9:]]
    extract(backbone, encoder, two, rows, tmp_path / "one.npy", **given)
    several = SeveralReaders(backbone)
    # what a killed extraction left is kept
    features.extract(StateReader(backbone), encoder, two, rows[:6], tmp_path / "two.npy", **given)
    (tmp_path / "two.npy").rename(tmp_path / "two.npy.partial")
    features.extract(several, encoder, two, rows, tmp_path / "two.npy", **given)
    for end in ("npy", "npy.log"):
        assert (tmp_path / f"one.{end}").read_bytes() == (tmp_path / f"two.{end}").read_bytes()
    assert len(several.threads) > 1


def two(ids, name):
    return (3, len(ids) - 1)


@pytest.mark.slow
def test_rows_are_the_states_of_plain_forward_passes_in_order(folder, tmp_path):
    backbone, encoder = parts(folder)
    found_NQH = extract(
        backbone, encoder, two, CONVERSATIONS, tmp_path / "f.npy", states=2, chunk_rows=5
    )
    assert found_NQH.shape == (23, 2, 64) and found_NQH.dtype == np.float32
    assert not found_NQH.flags.writeable
    plain, _ = parts(folder)
    plain.model.set_attn_implementation("sdpa")
    for row, conversation in zip(found_NQH, CONVERSATIONS, strict=True):
        ids = tiny.llama3_ids(conversation)
        with torch.no_grad():
            hidden_TH = plain.model(torch.tensor([ids])).last_hidden_state[0]
        np.testing.assert_allclose(row, hidden_TH[[3, -1]], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.npy.log"]


def test_several_processes_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=words("one process torchrun")):
        extract(*parts(folder), last_token, CONVERSATIONS, tmp_path / "f.npy")
    assert not list(tmp_path.iterdir())


def test_conversations_are_read_a_chunk_at_a_time(folder, tmp_path):
    backbone, encoder = parts(folder)
    taken, ahead = 0, []

    def stream():
        nonlocal taken
        for conversation in CONVERSATIONS:
            taken += 1
            yield conversation

    states = backbone.states

    def watched(rows, positions):
        ahead.append(taken)
        return states(rows, positions)

    backbone.states = watched  # type: ignore[method-assign]
    extract(backbone, encoder, last_token, stream(), tmp_path / "f.npy", chunk_rows=4)
    assert sorted(set(ahead)) == [4, 8, 12, 16, 20, 23]


class Killed(BaseException):
    """Not an Exception: nothing on the way may handle it."""


def killed_after(backbone: Backbone, batches: int) -> Backbone:
    states, left = backbone.states, [batches]

    def run(rows, positions):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return states(rows, positions)

    backbone.states = run  # type: ignore[method-assign]
    return backbone


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_kills_at_random_chunks_and_torn_writes_end_in_the_same_bytes(folder, tmp_path):
    settings: dict[str, Any] = {"chunk_rows": 3, "batch_tokens": 150}
    backbone, encoder = parts(folder)
    extract(backbone, encoder, last_token, CONVERSATIONS, tmp_path / "whole/f.npy", **settings)
    draw = np.random.default_rng(0)
    for trial in range(4):
        file, kills = tmp_path / f"{trial}/f.npy", 0
        while True:
            batches = int(draw.integers(1, 8))
            try:
                extract(
                    killed_after(parts(folder)[0], batches), encoder, last_token, CONVERSATIONS,
                    file, **settings,
                )  # fmt: skip
                break
            except Killed:
                kills += 1
            assert not file.exists()  # whole or not at all
            for name in (f"{file.name}.partial", f"{file.name}.log"):  # the beginning of a write
                with open(file.with_name(name), "ab") as end:
                    end.write(b'{"rows": 3, "dig'[: int(draw.integers(0, 16))])
        assert kills > 0
        assert contents(file.parent) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_real_kill(folder, tmp_path):
    backbone, encoder = parts(folder)
    file, states, calls = tmp_path / "killed/f.npy", backbone.states, []

    def run(rows, positions):
        calls.append(rows)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return states(rows, positions)

    if (process := os.fork()) == 0:
        try:
            backbone.states = run
            extract(backbone, encoder, last_token, CONVERSATIONS, file, chunk_rows=5)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -9
    assert len((tmp_path / "killed/f.npy.log").read_text().splitlines()) == 4  # settings, 3 chunks
    killed_after(backbone, 2)  # of five chunks two are left to compute
    for name in ("killed", "whole"):
        extract(
            backbone if name == "killed" else parts(folder)[0], encoder, last_token, CONVERSATIONS,
            tmp_path / name / "f.npy", chunk_rows=5,
        )  # fmt: skip
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_is_whole_is_not_computed_again(folder, tmp_path):
    backbone, encoder = parts(folder)
    first = extract(backbone, encoder, last_token, CONVERSATIONS, tmp_path / "f.npy")
    again = extract(
        killed_after(parts(folder)[0], 0), encoder, last_token, CONVERSATIONS, tmp_path / "f.npy"
    )
    np.testing.assert_array_equal(first, again)


def test_features_of_other_models_settings_or_conversations_are_refused(folder, tmp_path):
    backbone, encoder = parts(folder)
    file = tmp_path / "f.npy"

    def again(message, model=backbone, reader=encoder, rows=CONVERSATIONS, **settings):
        with pytest.raises(InputError, match=message) as caught:
            extract(model, reader, last_token, rows, file, **{"chunk_rows": 4, **settings})
        assert "\n" not in str(caught.value)

    with pytest.raises(Killed):
        extract(
            killed_after(parts(folder)[0], 3), encoder, last_token, CONVERSATIONS, file,
            chunk_rows=4,
        )  # fmt: skip
    for _ in ("in the middle", "whole"):
        changed, _ = parts(folder)
        with torch.no_grad():
            changed.model.layers[0].mlp.up_proj.weight += 1e-3
        again("with another model", changed)
        again("with another dtype", dtype="float16")
        again("with another chunk_rows", chunk_rows=5)
        again("from other conversations", rows=CONVERSATIONS[::-1])
        short = parts(folder)[1]
        short.max_length = 40
        again("from other conversations or token ids", reader=short)
        extract(backbone, encoder, last_token, CONVERSATIONS, file, chunk_rows=4)
    again("from more conversations", rows=CONVERSATIONS[:20])
    again("from other conversations", rows=[*CONVERSATIONS, CONVERSATIONS[0]])
    file.with_name("f.npy.log").unlink()
    again("without f.npy.log")


def test_too_long_conversations_are_left_out_and_counted(folder, tmp_path, caplog):
    backbone, encoder = parts(folder)
    rows = [*CONVERSATIONS[:4], tiny.chat("long " * 60, "x"), *CONVERSATIONS[4:6]]
    found_N1H = extract(backbone, encoder, last_token, rows, tmp_path / "f.npy", longest=150)
    assert np.isnan(found_N1H).any(axis=(1, 2)).tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert "1 of 7 conversations have more than 150 tokens" in caplog.text


def test_half_precision_and_what_it_cannot_hold(folder, tmp_path):
    backbone, encoder = parts(folder)
    exact = extract(backbone, encoder, last_token, CONVERSATIONS, tmp_path / "32.npy")
    half = extract(
        backbone, encoder, last_token, CONVERSATIONS, tmp_path / "16.npy", dtype="float16"
    )
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    with torch.no_grad():
        backbone.model.norm.weight *= 1e6
    with pytest.raises(RewardError, match=r"conversation 0 .* float16 cannot hold it"):
        extract(backbone, encoder, last_token, CONVERSATIONS, tmp_path / "b.npy", dtype="float16")
    with torch.no_grad():
        backbone.model.norm.weight[:] = float("nan")
    with pytest.raises(RewardError, match="conversation 0 has a hidden state that is no finite"):
        extract(backbone, encoder, last_token, CONVERSATIONS, tmp_path / "c.npy")


def test_nothing_to_extract_is_said(folder, tmp_path):
    backbone, encoder = parts(folder)
    with pytest.raises(InputError, match="there are no conversations"):
        extract(backbone, encoder, last_token, [], tmp_path / "f.npy")


# ridge regression


def planted(rows=300, size=12, attributes=3, seed=0):
    draw = np.random.default_rng(seed)
    # correlated and of unequal size, as hidden states are
    features = draw.normal(size=(rows, size)) @ draw.normal(size=(size, size)) + 1.0
    truth = draw.normal(size=(size, attributes))
    labels = features @ truth * 0.1 + 0.3 * draw.normal(size=(rows, attributes))
    labels[draw.random(labels.shape) < 0.3] = np.nan
    return features.astype(np.float32), labels


def least_squares(features, labels, alpha):
    """Ridge without its normal equations: ‖Xw − y‖² + alpha ‖w‖² is one longer sum of squares."""
    from scipy.linalg import lstsq

    root = np.sqrt(alpha) * np.eye(features.shape[1])
    nothing = np.zeros((len(root), *labels.shape[1:]))
    found: Any = lstsq(np.concatenate([features, root]), np.concatenate([labels, nothing]))
    return found[0].T


@pytest.mark.parametrize("rows", [300, 8])  # with fewer rows than numbers, too
def test_every_alpha_equals_least_squares_with_a_row_of_its_root_per_number(rows):
    features, _ = planted(rows)
    labels = np.random.default_rng(1).normal(size=(rows, 2))
    exact = features.astype(np.float64)
    found = ridge_path(exact.T @ exact, exact.T @ labels, PUBLISHED_ALPHAS)
    for alpha, weights in zip(PUBLISHED_ALPHAS, found, strict=True):
        theirs = least_squares(exact, labels, alpha)
        np.testing.assert_allclose(weights.T, theirs, atol=1e-6, rtol=1e-6)


def test_each_attribute_is_fitted_on_its_own_labels_and_alpha_on_a_fifth_of_them(monkeypatch):
    from rewards.training import ridge

    monkeypatch.setattr(ridge, "_BLOCK", 37)  # several blocks
    features, labels = planted()
    labels[:, 2] = np.where(np.isnan(labels[:, 1]), np.nan, labels[:, 2])
    features[7] = np.nan  # one that was too long
    found = fit_attributes(features, labels, ["a", "b", "c"], seed=3)
    for k, fit in enumerate(found):
        known = ~np.isnan(labels[:, k])
        known[7] = False
        order = np.random.default_rng(3).permutation(np.flatnonzero(known))
        held, train = order[: fit.held_out], order[fit.held_out :]
        assert fit.held_out == round(0.2 * known.sum()) and fit.fitted == len(train)
        errors = {}
        for alpha in PUBLISHED_ALPHAS:
            weight_H = least_squares(features[train].astype(np.float64), labels[train, k], alpha)
            errors[alpha] = np.mean((features[held] @ weight_H - labels[held, k]) ** 2)
            if alpha == fit.alpha:
                np.testing.assert_allclose(fit.weight_H, weight_H, atol=1e-6)
        assert fit.alpha == min(errors, key=lambda alpha: errors[alpha])
        assert fit.error == pytest.approx(errors[fit.alpha])
        assert fit.error_of_mean > fit.error


def test_attributes_that_cannot_be_fitted_are_named():
    features, labels = planted()
    labels[:, 1] = np.nan
    with pytest.raises(InputError, match=words("attribute 'b' has 0 labels")):
        fit_attributes(features, labels, ["a", "b", "c"])
    labels[:4, 1] = 1.0
    with pytest.raises(InputError, match=words("attribute 'b' has 4 labels needs 5")):
        fit_attributes(features, labels, ["a", "b", "c"])
    changes: list[tuple[dict[str, Any], str]] = [
        ({"alphas": [0.0]}, "above 0"),
        ({"validation_share": 1.0}, "between 0 and 1"),
    ]
    for change, message in changes:
        with pytest.raises(InputError, match=message):
            fit_attributes(features, np.nan_to_num(labels), ["a", "b", "c"], **change)
    with pytest.raises(InputError, match="do not fit"):
        fit_attributes(features, labels, ["a"])
    with pytest.raises(InputError, match="finite"):
        fit_attributes(features, np.full_like(labels, np.inf), ["a", "b", "c"])


def test_the_log_names_what_features_were_made_by(folder, tmp_path):
    backbone, encoder = parts(folder)
    extract(backbone, encoder, last_token, CONVERSATIONS, tmp_path / "f.npy", chunk_rows=10)
    about, *chunks = map(json.loads, (tmp_path / "f.npy.log").read_text().splitlines())
    assert about["shape"] == [1, 64] and about["layout"] == "packed"
    assert [chunk["rows"] for chunk in chunks] == [10, 10, 3]
