"""Variables of chat templates (Qwen3's enable_thinking), for rewards, for policies, in records."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import toy_runs
from wording import refusal, says, words

from raft.cli.main import main
from raft.config.train_reward import make_train_config
from raft.runs.folder import RunFolder
from rewards.checkpoints.record import write_record
from rewards.models.load import load_reward
from rewards.training.examples import reading_encoder
from rewards.training.settings import ReadingSettings
from rollout.errors import InputError
from rollout.text.templates import encode_prompts
from rollout.types import Message, Prompt

tiny: Any = importlib.import_module("tiny_rewards")

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' and enable_thinking is defined and not enable_thinking %}"
    "{{ '(no thoughts)' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}"
    "{% endif %}{% endif %}"
)
OFF: dict[str, object] = {"enable_thinking": False}
CHAT = [Message(role="user", content="hi"), Message(role="assistant", content="hello")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return tiny.checkpoint(folder, "llama", tiny.tokenizer(chat_template=TEMPLATE))


def expected(model: Path, **kwargs: object) -> float:
    made = tiny.tokenizer(chat_template=TEMPLATE)
    text = made.apply_chat_template(CHAT, tokenize=False, **kwargs)
    ids = made(text, add_special_tokens=True)["input_ids"]
    return tiny.reference_score(model, ids)


@pytest.mark.slow
def test_a_reward_reads_with_them(model: Path, tmp_path: Path) -> None:
    plain, off = load_reward(model), load_reward(model, chat_template_kwargs=OFF)
    for loaded, kwargs in ((plain, {}), (off, OFF)):
        assert loaded.score([CHAT])[0] == pytest.approx(expected(model, **kwargs), abs=1e-4)
    assert off.describe()["chat_template_kwargs"] == OFF
    assert "chat_template_kwargs" not in plain.describe()
    file = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"messages": CHAT}])
    line = ["score", "--quiet", "--reward", str(model), str(file)]
    scores = []
    for more in (["--chat-template-kwargs", json.dumps(OFF)],
                 ["--set", "chat_template_kwargs.enable_thinking=false", "--restart"]):  # fmt: skip
        assert main([*line, *more]) == 0
        scores += [row["score"] for row in toy_runs.rows(tmp_path / "rows.scored.jsonl")]
    assert scores == pytest.approx([expected(model, **OFF)] * 2, abs=1e-4)


def test_they_are_part_of_what_a_file_was_made_with(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"messages": CHAT}])
    line = ["score", "--quiet", "--reward", model, file]
    assert main([*map(str, line), "--chat-template-kwargs", json.dumps(OFF)]) == 0
    assert "enable_thinking" in refusal(capsys, *line) or says(capsys.readouterr().err, "other")


def test_a_record_holds_them(model: Path, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "m", "llama", tiny.tokenizer(chat_template=TEMPLATE))
    write_record(folder, load_reward(model, chat_template_kwargs=OFF).encoder.describe())
    again = load_reward(folder)
    assert again.describe()["chat_template_kwargs"] == OFF
    on = load_reward(folder, chat_template_kwargs={"enable_thinking": True})
    assert on.score([CHAT])[0] != again.score([CHAT])[0]


@pytest.mark.parametrize("kwargs", [None, OFF, {"enable_thinking": True}])
def test_a_policy_is_asked_with_them(kwargs: dict[str, object] | None) -> None:
    made = tiny.tokenizer(chat_template=TEMPLATE, adds_bos=False)
    asked = Prompt("p", (Message(role="user", content="hi"),))
    (found,) = encode_prompts(
        [asked], made, chat_template_kwargs=kwargs, max_model_len=200, max_new_tokens=4
    )
    ids = made.apply_chat_template(
        list(asked.content), add_generation_prompt=True, tokenize=True, return_dict=False,
        **(kwargs or {}),
    )  # fmt: skip
    assert list(found.token_ids) == list(ids)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"enable_thinkin": False}, "has no variable 'enable_thinkin'"),
        ({"tokenize": True}, "'tokenize' is not to be set"),
        ({"add_generation_prompt": False}, "'add_generation_prompt' is not to be set"),
    ],
)
def test_what_would_do_nothing_is_refused(
    model: Path, kwargs: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=words(said)):
        load_reward(model, chat_template_kwargs=kwargs)
    made = tiny.tokenizer(chat_template=TEMPLATE)
    with pytest.raises(InputError, match=words(said)):
        encode_prompts(
            [Prompt("p", "hi")], made, chat_template_kwargs=kwargs, max_model_len=99,
            max_new_tokens=4,
        )  # fmt: skip
    with pytest.raises(InputError, match=words("has no use")):
        load_reward(model, format="plain", chat_template_kwargs=OFF)


def test_a_run_of_others_is_another_run(tmp_path: Path) -> None:
    def config(**policy: Any) -> dict[str, Any]:
        own = toy_runs.settings(tmp_path)["policy"]
        return toy_runs.config(tmp_path, policy={**own, **policy}).model_dump(mode="json")

    with RunFolder(str(tmp_path / "run"), config(chat_template_kwargs=OFF)) as folder:
        folder.add_metrics(0, "eval", {"eval/reward_mean": 1.0})
    with pytest.raises(InputError, match="chat_template_kwargs"):
        RunFolder(str(tmp_path / "run"), config())
    with RunFolder(str(tmp_path / "run"), config(chat_template_kwargs=OFF)):
        pass


def test_training_reads_and_records_with_them(model: Path) -> None:
    loaded = load_reward(model)
    settings = ReadingSettings(format="chat", chat_template_kwargs=OFF)
    base: Any = loaded.engine
    encoder = reading_encoder(loaded.encoder.tokenizer, base.backbone.model, settings, str(model))
    assert encoder.describe()["chat_template_kwargs"] == OFF
    assert encoder.render(CHAT).endswith("(no thoughts)")
    config = make_train_config(
        {"run_dir": "r", "model": "m", "data": ["d"], "chat_template_kwargs": OFF}
    )
    assert config.chat_template_kwargs == OFF
