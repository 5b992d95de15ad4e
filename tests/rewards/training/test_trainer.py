"""The trainer: its loss and its steps against plain torch, batches, resuming, and bad input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_training as tiny
import torch
from wording import says

from rewards.data.pair import Pair
from rewards.training import distributed
from rewards.training.bradley_terry import train_bradley_terry
from rewards.training.examples import (
    Example,
    encode_pairs,
    micro_batches,
    reading_encoder,
    training_steps,
)
from rewards.training.losses import PairObjective, base_of, score_rows
from rewards.training.model import load_trainable, pad_id_of
from rewards.training.settings import (
    Layout,
    LoraSettings,
    LossSettings,
    ReadingSettings,
    TrainingSettings,
)
from rollout.types import InputError, Message

PAIRS = tiny.made_pairs(44)
TRAIN, HELD_OUT = PAIRS[:36], PAIRS[36:]
QUICK = TrainingSettings(learning_rate=3e-3, epochs=2, batch_size=8, log_steps=1, save_steps=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.tokenizer(tiny.texts_of(PAIRS), 400)
    return tiny.language_model(tmp_path_factory.mktemp("base"), made)


def changed(settings: TrainingSettings, **changes: Any) -> TrainingSettings:
    import dataclasses

    return dataclasses.replace(settings, **changes)


def trained(base: Path, folder: Path, settings: TrainingSettings = QUICK, **more: Any) -> Any:
    rows: list[tuple[int, dict[str, float]]] = []
    found = train_bradley_terry(
        base, TRAIN, HELD_OUT, folder, training=settings,
        on_metrics=lambda step, values: rows.append((step, values)), **more,
    )  # fmt: skip
    return found, rows, weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def by_hand(base: Path, settings: TrainingSettings, loss: LossSettings) -> dict[str, torch.Tensor]:
    """The same training in plain torch: one row at a time, transformers' own pooling, AdamW."""
    from transformers import get_scheduler

    model, tokenizer = load_trainable(base, "classifier", settings)

    def read(messages: Sequence[Message]) -> list[int]:
        found = tokenizer.apply_chat_template(cast("list[dict[str, str]]", messages))
        return cast("dict[str, list[int]]", found)["input_ids"]

    rows = [[read(pair.conversation(side)) for side in ("chosen", "rejected")] for pair in TRAIN]
    steps = training_steps(len(TRAIN), settings.batch_size, settings.epochs, settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.0)
    schedule = get_scheduler("linear", optimizer, 0, len(steps))
    for step in steps:
        total = torch.zeros(())
        for index in step:
            chosen, rejected = (
                model(input_ids=torch.tensor([row])).logits[0, 0] for row in rows[index]
            )
            delta = chosen - rejected - loss.margin * (TRAIN[index].margin or 0)
            total = total + torch.nn.functional.softplus(-delta)
            total = total + loss.center * (chosen + rejected) ** 2
        (total / len(step)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_training_is_that_of_a_plain_loop(base: Path, tmp_path: Path) -> None:
    # 9 steps of 8 pairs through budgets that cut each step into several batches
    loss = LossSettings(margin=0.3, center=0.05)
    settings = changed(QUICK, learning_rate=1e-3, micro_tokens=300)
    *_, found = trained(base, tmp_path, settings, loss=loss)
    # the loop's rounding differs, and Adam magnifies that where gradients are tiny
    assert apart(found, by_hand(base, settings, loss)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_how_a_step_is_cut_does_not_matter(base: Path, tmp_path: Path, layout: Layout) -> None:
    slow = changed(QUICK, learning_rate=1e-3, layout=layout)
    *_, single = trained(base, tmp_path / "single", changed(slow, micro_tokens=1))
    *_, whole = trained(base, tmp_path / "whole", changed(slow, micro_tokens=10**6))
    assert apart(single, whole) < 1e-4


@pytest.mark.slow
def test_layouts_give_the_same_rewards_and_gradients(base: Path) -> None:
    from rewards.training.fit import layout_for

    found = {}
    for layout in ("padded", "packed"):
        model, tokenizer = load_trainable(base, "classifier", QUICK)
        encoder = reading_encoder(tokenizer, base_of(model), ReadingSettings(), "tiny")
        examples = encode_pairs(TRAIN[:6], encoder).examples
        pad = pad_id_of(tokenizer)
        assert layout_for(model, changed(QUICK, layout=layout), pad) == layout
        outcome = PairObjective(LossSettings(), layout, pad).run(model, examples)
        outcome.loss.backward()
        gradients = {
            name: cast("torch.Tensor", p.grad).clone() for name, p in model.named_parameters()
        }
        found[layout] = ({**outcome.values, "loss": outcome.loss.detach()}, gradients)
    assert apart(found["padded"][0], found["packed"][0]) < 1e-5
    assert apart(found["padded"][1], found["packed"][1]) < 1e-5


@pytest.mark.parametrize(
    ("family", "changes", "layout"),
    [
        ("mistral", {"sliding_window": 32}, "packed"),
        # what these tell by their mask alone: a window, chunks
        ("phimoe", {"sliding_window": 64, "num_local_experts": 2}, "padded"),
        ("llama4_text", {"attention_chunk_size": 32, "num_local_experts": 2}, "padded"),
    ],
)
def test_rows_beyond_a_window_have_the_states_of_single_rows(
    family: str, changes: dict[str, int], layout: Layout
) -> None:
    from transformers import AutoConfig, AutoModel

    from rewards.training.layout import choose_layout, last_states, lay_out

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=300, hidden_size=32, head_dim=16, num_hidden_layers=2,
        intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0,
        **changes,
    )  # fmt: skip
    model = AutoModel.from_config(config).eval()
    draw = np.random.default_rng(0)
    rows = [draw.integers(3, 300, size=size) for size in (200, 150, 20)]
    with torch.no_grad():
        single = [model(torch.tensor(row[None])).last_hidden_state[0, -1] for row in rows]
        chosen = choose_layout(model, model, pad_id=0, wanted=None, why_padded=None)
        found = last_states(model, lay_out(rows, chosen, 0, torch.device("cpu")))
    torch.testing.assert_close(found, torch.stack(single), atol=1e-5, rtol=1e-4)
    assert chosen == layout


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rewards_are_read_at_each_rows_own_last_token(base: Path, layout: Layout) -> None:
    loaded, tokenizer = load_trainable(base, "classifier", QUICK)
    model, pad = base_of(loaded), pad_id_of(tokenizer)
    if layout == "packed":
        from rewards.inference import packed_attention

        packed_attention.register()
        model.set_attn_implementation(packed_attention.PACKED)
    # rows that hold and end with the very id that pads
    rows = [np.array([0, 9, pad, 30, pad]), np.array([0, 9, 41]), np.array([0, 7] * 20)]
    found = score_rows(model.eval(), rows, layout, pad)
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        body, head = model.get_submodule("model"), model.get_submodule("score")
        expected = [
            float(head(body(torch.tensor([row.tolist()])).last_hidden_state[0, -1])) for row in rows
        ]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_no_dropout_unless_asked(tmp_path: Path) -> None:
    import tiny_models

    base = tiny_models.checkpoint(tmp_path / "gpt2", "gpt2", resid_pdrop=0.5, attn_pdrop=0.5)
    rows = [np.arange(3, 40)]
    for dropout in (False, True):
        model, tokenizer = load_trainable(base, "classifier", changed(QUICK, dropout=dropout))
        model.train()
        with torch.no_grad():
            scores = {
                float(score_rows(model, rows, "padded", pad_id_of(tokenizer))) for _ in range(3)
            }
        assert (len(scores) == 1) != dropout
        assert base_of(model).config.to_dict()["resid_pdrop"] == 0.5, "the config stays as it was"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
def test_recomputed_activations_change_nothing(
    base: Path, tmp_path: Path, layout: Layout, lora: LoraSettings | None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    slow = changed(QUICK, learning_rate=1e-3, epochs=1, lora=lora, layout=layout)
    *_, plain = trained(base, tmp_path / "plain", slow)
    with caplog.at_level("INFO", logger="rewards"):
        *_, again = trained(base, tmp_path / "again", changed(slow, gradient_checkpointing=True))
    assert apart(plain, again) < 1e-6
    assert f"training on {layout} rows" in caplog.text


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_training_goes_on_to_the_same_weights(
    base: Path, tmp_path: Path, lora: bool
) -> None:
    settings = changed(QUICK, lora=LoraSettings(r=4)) if lora else QUICK
    whole, rows, expected = trained(base, tmp_path / "whole", settings)

    def die(step: int, values: dict[str, float]) -> None:
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        train_bradley_terry(
            base, TRAIN, HELD_OUT, tmp_path / "killed", training=settings, on_metrics=die
        )
    folder = tmp_path / "killed" / "checkpoints"
    assert (folder / "checkpoint-4").is_dir() and not (tmp_path / "killed" / "model").exists()
    (folder / "checkpoint-5").mkdir()  # what a kill leaves half written
    found, later, weights = trained(base, tmp_path / "killed", settings)
    assert apart(weights, expected) <= 1e-6
    assert min(step for step, _ in later) == 5, "it goes on after the last whole checkpoint"
    assert found == whole
    assert _last(later) == _last(rows)
    assert not folder.exists(), "checkpoints are gone once the model is there"


def _last(rows: list[tuple[int, dict[str, float]]]) -> Any:
    return rows[-1]


@pytest.mark.slow
def test_the_seed_alone_decides(base: Path, tmp_path: Path) -> None:
    first, second, other = (
        trained(base, tmp_path / name, changed(QUICK, epochs=1, seed=seed))[2]
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert apart(first, second) == 0
    assert apart(first, other) > 1e-3


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_taken_again_in_pieces(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, expected = trained(base, tmp_path / "easy", changed(QUICK, learning_rate=1e-3))
    run = PairObjective.run

    def tight(self: Any, model: Any, examples: Sequence[Example]) -> Any:
        if len(examples) > 3:
            raise torch.OutOfMemoryError("made up")
        return run(self, model, examples)

    monkeypatch.setattr(PairObjective, "run", tight)
    few = changed(QUICK, learning_rate=1e-3, eval_steps=100)
    monkeypatch.setattr("rewards.training.trainer.StepTrainer.values", _no_values)
    *_, found = trained(base, tmp_path / "tight", few)
    assert apart(found, expected) < 1e-4


def _no_values(self: Any, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    return {side: torch.zeros(len(examples)) for side in ("chosen", "rejected")}


@pytest.mark.slow
def test_metrics_tell_the_story(base: Path, tmp_path: Path) -> None:
    found, rows, _ = trained(base, tmp_path)
    losses = [values["train/loss"] for _, values in rows if "train/tokens_per_second" in values]
    assert len(losses) == 9 and losses[-1] < losses[0]
    judged = [step for step, values in rows if "eval/loss" in values]
    assert judged == [0, 4, 8, 9], "each once, the last one too"
    assert rows[-1] == (9, {"train/steps": 9, "train/loss": losses[-1]})
    assert found["eval/accuracy"] == 1.0
    assert found["eval/accuracy_low"] <= found["eval/accuracy"] <= found["eval/accuracy_high"]
    assert (found["pairs/train"], found["pairs/held_out"]) == (36, 8)


# batches


def example(*lengths: int) -> Example:
    return Example(tuple(np.arange(length) + index for index, length in enumerate(lengths)))


def test_every_epoch_shows_every_pair_once() -> None:
    steps = training_steps(10, 4, 2.5, seed=3)
    flat = [index for step in steps for index in step]
    assert [len(step) for step in steps] == [4, 4, 4, 4, 4, 4, 1]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]
    assert steps == training_steps(10, 4, 2.5, seed=3) != training_steps(10, 4, 2.5, seed=4)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("budget", [1, 60, 200, 10**6])
def test_batches_keep_the_budget_and_lose_nothing(layout: Layout, budget: int) -> None:
    draw = np.random.default_rng(0)
    examples = [example(*draw.integers(1, 80, size=2)) for _ in range(30)]
    batches = micro_batches(examples, budget, layout)
    assert sorted(map(id, (one for batch in batches for one in batch))) == sorted(map(id, examples))
    for batch in batches:
        padded = max(one.longest for one in batch) * 2 * len(batch)
        cost = padded if layout == "padded" else sum(one.packed for one in batch)
        assert cost <= budget or len(batch) == 1


# bad input


def refused(base: Path, folder: Path, pairs: list[Pair], held_out: list[Pair], **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        train_bradley_terry(base, pairs, held_out, folder, training=QUICK, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pairs_that_teach_nothing_are_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    same = [tiny.pair(str(n), "q", "the same", "the same") for n in range(3)]
    empty = [tiny.pair(str(n), "q", "an answer", " ") for n in range(2)]
    assert says(refused(base, tmp_path, same, HELD_OUT), "training pairs 3: 3 identical sides")
    found = refused(base, tmp_path, same + empty, HELD_OUT)
    assert says(found, "training pairs 5: 3 identical sides, 2 empty side")
    assert says(refused(base, tmp_path, [], HELD_OUT), "no training pairs 0")
    assert says(refused(base, tmp_path, TRAIN, []), "no held-out pairs 0")


def test_only_over_long_pairs_are_refused(base: Path, tmp_path: Path) -> None:
    drop = ReadingSettings(max_length=12, over_long="drop")
    found = refused(base, tmp_path, TRAIN, HELD_OUT, reading=drop)
    assert says(found, "no training pairs 36: 36 longer than 12 tokens max_length")
    right = ReadingSettings(max_length=12, truncation_side="right")
    found = refused(base, tmp_path, TRAIN, HELD_OUT, reading=right)
    assert says(found, "no training pairs 36: 36 12 tokens no response max_length")


def test_pairs_that_are_identical_after_truncation_are_skipped(base: Path, tmp_path: Path) -> None:
    words = "the cat sat on the mat and " * 12
    long = [tiny.pair(str(n), "q", f"{words} good", f"{words} bad") for n in range(3)]
    cut = ReadingSettings(max_length=40, truncation_side="right")
    assert says(refused(base, tmp_path, long, HELD_OUT, reading=cut), "3 sides same max_length")
    whole = ReadingSettings(max_length=4000)
    model, tokenizer = load_trainable(base, "classifier", QUICK)
    encoder = reading_encoder(tokenizer, base_of(model), whole, "tiny")
    assert len(encode_pairs(long, encoder).examples) == 3


def test_long_pairs_are_cut_as_when_they_are_scored(base: Path) -> None:
    model, tokenizer = load_trainable(base, "classifier", QUICK)
    encoder = reading_encoder(tokenizer, base_of(model), ReadingSettings(max_length=40), "tiny")
    encoded = encode_pairs(PAIRS, encoder)
    assert encoded.cut > 10
    for side, name in enumerate(("chosen", "rejected")):
        scored = encoder.encode([pair.conversation(name) for pair in PAIRS], ["x"] * len(PAIRS))
        assert [one.rows[side].tolist() for one in encoded.examples] == scored


def test_margins_need_margins(base: Path, tmp_path: Path) -> None:
    bare = [Pair(p.id, p.prompt, p.chosen, p.rejected) for p in TRAIN]
    found = refused(base, tmp_path, bare, HELD_OUT, loss=LossSettings(margin=1.0))
    assert found.startswith("loss.margin: no pair has a margin")


def test_a_rate_that_diverges_is_named(base: Path, tmp_path: Path) -> None:
    wild = changed(QUICK, learning_rate=1e30, max_grad_norm=0.0, epochs=20)
    with pytest.raises(InputError, match=r"^train\.learning_rate: training diverged at step"):
        train_bradley_terry(base, TRAIN, HELD_OUT, tmp_path, training=wild)


def test_an_optimizer_that_is_not_there_is_refused(base: Path, tmp_path: Path) -> None:
    for name, expected in {
        "adam_w": "'adam_w' is not known", "paged_adamw_32bit": "paged_adamw_32bit is not to be had"
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=f"^train.optimizer: {expected}"):
            train_bradley_terry(
                base, TRAIN, HELD_OUT, tmp_path, training=changed(QUICK, optimizer=name)
            )


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "config.json is not usable" in refused(tmp_path / "model", tmp_path, TRAIN, HELD_OUT)
    found = refused(tmp_path / "nowhere" / "at" / "all", tmp_path, TRAIN, HELD_OUT)
    assert says(found, "all: no such folder")


def test_a_system_turn_needs_a_format_that_has_one(base: Path, tmp_path: Path) -> None:
    asked = [Message(role="system", content="be kind"), Message(role="user", content="hello")]
    pairs = [Pair("s", asked, "yes", "no")]
    found = refused(base, tmp_path, pairs, HELD_OUT, reading=ReadingSettings(format="hh"))
    assert says(found, "pair 's' (chosen) no role 'system' user and assistant")


@pytest.mark.thorough
@pytest.mark.slow
def test_politeness_is_learned_from_nothing(raft_data: Path, tmp_path: Path) -> None:
    """A random classifier of 0.2 million parameters, 881 pairs, two epochs."""
    pairs = tiny.polite_pairs(raft_data)
    base = tiny.language_model(tmp_path / "base", tiny.tokenizer(tiny.texts_of(pairs)))
    order = np.random.default_rng(0).permutation(len(pairs))
    shuffled, fifth = [pairs[index] for index in order], len(pairs) // 5
    settings = TrainingSettings(learning_rate=3e-3, epochs=2, batch_size=16, warmup_ratio=0.1)
    metrics = train_bradley_terry(
        base, shuffled[fifth:], shuffled[:fifth], tmp_path, training=settings
    )
    found = cast("dict[str, Any]", metrics)
    assert found["eval/accuracy"] >= 0.9
    assert found["eval/accuracy_low"] > 0.8


# several processes


def test_gradients_go_around_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def doubled(value: torch.Tensor) -> torch.Tensor:
        sizes.append(value.numel())
        return value.mul_(2)

    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed, "summed", doubled)
    monkeypatch.setattr(distributed, "_BUCKET", 10)
    shapes = [(2, 3), (4,), (20,), (1,), (3, 2)]
    dtypes = [torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
    made = [torch.nn.Parameter(torch.ones(s, dtype=d)) for s, d in zip(shapes, dtypes, strict=True)]
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    grads = [torch.randn(s).to(d) for s, d in zip(shapes, dtypes, strict=True)]
    for parameter, grad in zip(made[:-1], grads, strict=False):
        parameter.grad = grad.clone()
    distributed.sum_gradients([*made, frozen])
    assert sizes == [5, 10, 20, 1]  # which have one, then these
    for parameter, grad in zip(made[:-1], grads, strict=False):
        assert parameter.grad is not None and torch.equal(parameter.grad, 2 * grad)
    assert made[-1].grad is None and frozen.grad is None


@pytest.mark.slow
def test_no_second_copy_of_the_gradients(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # accelerate would wrap the model for several processes, and sum in buckets of its own
    import accelerate

    asked: list[bool] = []
    original: Any = accelerate.Accelerator.prepare_model

    def noted(self: Any, *given: Any, evaluation_mode: bool = False, **named: Any) -> Any:
        asked.append(evaluation_mode)
        return original(self, *given, evaluation_mode=evaluation_mode, **named)

    monkeypatch.setattr(accelerate.Accelerator, "prepare_model", noted)
    trained(base, tmp_path)
    assert asked and all(asked)


@pytest.mark.parametrize("one_call", [True, False])
def test_gpus_pack_where_attention_is_one_call_a_layer(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, one_call: bool
) -> None:
    import varlen_reference

    from rewards.training.fit import layout_for

    model, tokenizer = load_trainable(base, "classifier", QUICK)
    own = base_of(model).config._attn_implementation
    if one_call:
        varlen_reference.on_cpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    caplog.set_level("INFO", logger="rewards")
    settings = changed(QUICK, layout=None, dtype="float32")
    chosen = layout_for(model, settings, pad_id_of(tokenizer))
    assert chosen == ("packed" if one_call else "padded")
    assert (base_of(model).config._attn_implementation == own) != one_call
    assert one_call or "padded rows: a GPU runs padded batches in fewer kernels" in caplog.text


@pytest.mark.slow
def test_a_gpus_16_bits_reach_the_parts_that_objectives_call(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rewards.training import trainer

    seen: set[torch.dtype] = set()

    def note(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and isinstance(module, torch.nn.Linear):
            seen.add(output.dtype)

    monkeypatch.setattr(trainer, "computes_in_bfloat16", lambda settings: True)
    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        trained(base, tmp_path, changed(QUICK, layout="padded"))
    finally:
        hook.remove()
    # float32 are the heads
    assert seen == {torch.bfloat16, torch.float32}
