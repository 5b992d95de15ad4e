"""Plans of the published configs on 1, 4 and 8 GPUs of 80 GB, and of models of other sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy_runs

from raft.cli.main import main
from raft.config.load import load_config, make_config
from raft.config.run import PromptsConfig, RunConfig
from raft.config.select import ControlConfig
from raft.config.train_reward import load_train_config
from raft.plan import plan as plans
from raft.plan.memory import GIB, total
from raft.plan.plan import DEFAULT_MEMORY, Plan, check_plan, plan_run
from raft.plan.remedies import run_changes
from raft.plan.sizes import model_size
from raft.plan.training import check_training_plan, plan_training
from raft.runs.check import check_run
from rollout.errors import InputError

CONFIGS = Path(__file__).parents[3] / "configs"
LORA_7B = ("train.lora.r=16", "train.fsdp=false", "cluster.trainer_workers=1")
ONE_ENGINE = ("cluster.rollout_workers=1",)
# config, overrides, GPUs, what of the config does not do there
VERDICTS = [
    ("hh_gpt_neo_2.7b", (), (1, 4, 8), None),
    ("hh_llama_7b", (), (1, 4), "cluster.placement"),
    ("hh_llama_7b", (), (8,), None),
    ("hh_llama_7b", LORA_7B, (8,), None),
    ("llama3_8b_armorm", (), (1,), "cluster.rollout_workers"),
    ("llama3_8b_armorm", ONE_ENGINE, (1,), None),
    ("llama3_8b_armorm", (), (4, 8), None),
    ("llama3_8b_judge", (), (1,), "cluster.rollout_workers"),
    ("llama3_8b_judge", ONE_ENGINE, (1,), None),
    ("llama3_8b_judge", (), (4, 8), None),
]
# width, inner, layers, heads, heads of keys, vocabulary: Qwen3-4B, Llama-3-8B, Llama-2-13B,
# Qwen2.5-14B, LLaMA-30B, Qwen2.5-32B
SHAPES = {
    "4B": (2560, 9728, 36, 32, 8, 151_936), "8B": (4096, 14336, 32, 32, 8, 128_256),
    "13B": (5120, 13824, 40, 40, 40, 32_000), "14B": (5120, 13824, 48, 40, 8, 152_064),
    "30B": (6656, 17920, 60, 52, 52, 32_000), "32B": (5120, 27648, 64, 40, 8, 152_064),
}  # fmt: skip


def refused(config: RunConfig, gpus: int) -> str | None:
    """The key that is named where the plan does not fit."""
    try:
        check_plan(config, gpus, DEFAULT_MEMORY)
    except InputError as error:
        return error.where
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides", "gpus", "key"), VERDICTS)
def test_published_configs(
    name: str, overrides: tuple[str, ...], gpus: tuple[int, ...], key: str | None
) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", list(overrides))
    assert [refused(config, count) for count in gpus] == [key] * len(gpus)


def test_the_numbers_behind_the_verdicts() -> None:
    # 8B with LoRA: weights in bfloat16, a tensor at a time is merged
    eight = plan_run(load_config(CONFIGS / "llama3_8b_armorm.yaml"), 4, DEFAULT_MEMORY)
    trainer = process(eight, "trainer 0")
    assert total(trainer.phases["train"]) / GIB == pytest.approx(20, abs=2)
    assert total(trainer.phases["save"]) / GIB == pytest.approx(17, abs=1)
    assert eight.disk.checkpoint / 1e9 == pytest.approx(17, abs=1)
    # 7B whole, in four shards: 16 bytes of each element
    seven = plan_run(load_config(CONFIGS / "hh_llama_7b.yaml"), 8, DEFAULT_MEMORY)
    parts = process(seven, "trainer 3").phases["train"]
    held = sum(parts[name].bytes for name in ("weights", "gradients", "optimizer"))
    assert held == pytest.approx(16 * 6_738_415_616 / 4, rel=1e-6)
    assert seven.disk.checkpoint == pytest.approx(12 * 6_738_415_616, rel=1e-6)
    # GPT-Neo whole: 43 GB and about 12 more
    neo = plan_run(load_config(CONFIGS / "hh_gpt_neo_2.7b.yaml"), 1, DEFAULT_MEMORY)
    assert total(process(neo, "trainer 0").phases["train"]) / 1e9 == pytest.approx(53, abs=5)


def process(plan: Plan, name: str) -> Any:
    return next(one for one in plan.processes if one.name == name)


def policy(root: Path, shape: str) -> str:
    """The config.json of a Llama of a published model's size."""
    hidden, inner, layers, heads, kv, vocabulary = SHAPES[shape]
    folder = root / shape
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "vocab_size": vocabulary, "max_position_embeddings": 4096, "dtype": "bfloat16",
        "tie_word_embeddings": shape == "4B",
    }))  # fmt: skip
    return str(folder)


def run_of(root: Path, shape: str, train: dict[str, Any], **cluster: Any) -> RunConfig:
    """A run of that policy by an 8B reward model, rows of at most 1,024 tokens."""
    return make_config({
        "run_dir": str(root / "run"),
        "policy": {"model": policy(root, shape), "max_model_len": 1024},
        "prompts": {"path": "prompts.jsonl", "max_tokens": 512},
        "sampling": {"k": 8, "max_new_tokens": 512},
        "reward": {"kind": "model", "model": "sfairXC/FsfairX-LLaMA3-RM-v0.1"},
        "train": {"batch_size": 24, "micro_batch_size": 1, "gradient_checkpointing": True, **train},
        "cluster": cluster,
    })  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpus", "shape", "train", "trainers", "fits"),
    [
        (1, "4B", {}, 1, True),
        (1, "8B", {}, 1, False),
        (1, "8B", {"lora": {}}, 1, True),
        (1, "14B", {"lora": {}}, 1, True),
        (1, "32B", {"lora": {}}, 1, False),
        (4, "8B", {}, 1, False),
        (5, "8B", {"fsdp": True}, 3, True),
        (6, "13B", {"fsdp": True}, 4, True),
        (6, "30B", {"fsdp": True}, 4, False),
        (4, "32B", {"lora": {}}, 1, True),
        (10, "30B", {"fsdp": True}, 8, True),
        (4, "8B", {"optim": "adamw_8bit", "dtype": "bfloat16"}, 1, True),
        (1, "8B", {"optim": "adamw_8bit", "dtype": "bfloat16"}, 1, True),
        (1, "8B", {"optim": "adamw_8bit"}, 1, False),
        (1, "8B", {"optim": "paged_adamw", "dtype": "bfloat16"}, 1, True),
        (6, "30B", {"fsdp": True, "fsdp_offload": True}, 4, True),
    ],
)
def test_what_fits_where(
    tmp_path: Path, gpus: int, shape: str, train: dict[str, Any], trainers: int, fits: bool
) -> None:
    config = run_of(tmp_path, shape, train, trainer_workers=trainers)
    found = plan_run(config, gpus, DEFAULT_MEMORY).problem()
    assert (found is None) == fits, found


def test_what_would_fit_is_named_and_does(tmp_path: Path) -> None:
    config = run_of(tmp_path, "8B", {})
    with pytest.raises(InputError) as caught:
        check_plan(config, 1, DEFAULT_MEMORY)
    assert caught.value.where == "train" and "lora" in str(caught.value)
    assert "16" in str(caught.value) and "\n" not in str(caught.value)
    neo = load_config(CONFIGS / "hh_gpt_neo_2.7b.yaml")
    with pytest.raises(InputError, match=r"policy\.model: .*fit with .*policy\.max_num_seqs"):
        check_plan(neo, 1, 40)
    with pytest.raises(InputError, match=r"train\.fsdp"):
        check_plan(run_of(tmp_path, "13B", {}), 8, DEFAULT_MEMORY)
    narrow = config.model_copy(
        update={"policy": config.policy.model_copy(update={"gpu_memory": 0.1})}
    )
    with pytest.raises(InputError, match=r"policy\.gpu_memory: .*fit with .*policy\.gpu_memory"):
        check_plan(narrow, 4, DEFAULT_MEMORY)


def test_only_settings_that_go_together_are_named(tmp_path: Path) -> None:
    config = run_of(tmp_path, "8B", {})
    sent = config.model_copy(update={"policy": config.policy.model_copy(update={"sync": "nccl"})})
    with pytest.raises(InputError) as caught:  # adapters fit, and are not sent
        check_plan(sent, 3, DEFAULT_MEMORY)
    named = caught.value.fix.removeprefix("it would fit with ").split(", ")
    assert named and all("policy.sync: disk" in one for one in named if "lora" in one)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda file: file.stem)
def test_every_config_is_one_that_goes_together(file: Path) -> None:
    from raft.plan.remedies import _is_accepted

    load = load_train_config if file.parent.name == "reward" else load_config
    assert _is_accepted(load(file))


def test_workers_on_one_gpu_take_turns_or_add_up(tmp_path: Path) -> None:
    config = run_of(tmp_path, "8B", {"lora": {}})
    shared = plan_run(config, 1, DEFAULT_MEMORY)
    apart = plan_run(config, 4, DEFAULT_MEMORY)
    drawing = next(use for use in shared.uses() if use.phase == "draw")
    parts = [process(shared, name).phases["draw"] for name in ("rollout 0", "reward 0")]
    assert drawing.bytes >= sum(map(total, parts))
    assert {use.gpu for use in apart.uses()} == {0, 1, 2, 3}
    # asleep, a policy's weights and optimizer lie in CPU memory
    assert process(shared, "trainer 0").host > process(apart, "trainer 0").host == 0


def test_weights_that_are_shared_are_on_a_gpu_twice(tmp_path: Path) -> None:
    config = run_of(
        tmp_path, "13B", {"fsdp": True, "batch_size": 8},
        **dict.fromkeys(("rollout_workers", "reward_workers", "trainer_workers"), 8),
        placement="colocated",
    )  # fmt: skip
    ipc = config.model_copy(update={"policy": config.policy.model_copy(update={"sync": "ipc"})})
    disk, shared = (plan_run(one, 8, DEFAULT_MEMORY) for one in (config, ipc))
    assert "sync" not in {use.phase for use in disk.uses()}
    used = {use.gpu: use.bytes for use in shared.uses() if use.phase == "sync"}
    elements = model_size(config.policy.model, "policy.model").elements
    # shards of weights and moments in float32, the engine's in bfloat16; its buffer and its copy
    held = 12 * elements / 8 + 2 * elements
    assert used.keys() == set(range(8)) and len({*used.values()} - {used[0]}) == 1  # 0: monitor
    assert held + 2 * GIB < used[7] < held + 5 * GIB
    assert process(shared, "rollout 0").phases["sync"].keys() == {"weights", "activations", "other"}
    others = [{(use.gpu, use.phase): use.bytes for use in plan.uses()} for plan in (disk, shared)]
    assert others[0].items() <= others[1].items()
    assert "policy.sync: disk" in dict(run_changes(ipc, 8))
    assert "policy.sync: disk" not in dict(run_changes(config, 8))


@pytest.mark.slow
def test_reward_trainings() -> None:
    def plan(name: str, gpus: int, *overrides: str) -> Plan:
        config = load_train_config(CONFIGS / "reward" / f"{name}.yaml", list(overrides))
        return plan_training(config, gpus, DEFAULT_MEMORY)

    for name in ("mistral_unified_feedback", "grm_gemma_2b_lora", "armorm_llama3_8b"):
        assert plan(name, 1).problem() is None and not _short(plan(name, 1))
    for name in ("grm_llama3_3b", "hh_open_llama_3b"):
        assert plan(name, 1).problem() is None and plan(name, 8).problem() is None
    for name in ("bradley_terry_llama3", "pairwise_llama3_8b"):
        # more than 80 GB, and on every GPU: what is paged goes to CPU memory
        for gpus in (1, 8):
            made = plan(name, gpus)
            assert total(made.processes[0].peak()) > made.memory
            assert made.problem() is None and "CPU memory" in _short(made)
        whole = ("train.optimizer=adamw_torch", "train.dtype=auto")
        assert plan(name, 8, *whole).problem() is not None
        assert not _short(plan(name, 1, "train.lora.r=32", "train.optimizer=adamw_torch"))
    config = load_train_config(
        CONFIGS / "reward/bradley_terry_llama3.yaml",
        ["train.optimizer=adamw_torch", "train.dtype=auto"],
    )
    with pytest.raises(InputError, match=r"train: .*(train\.lora|train\.optimizer)"):
        check_training_plan(config, 1, DEFAULT_MEMORY)
    two_stages = load_train_config(CONFIGS / "reward/hh_open_llama_3b.yaml")
    with pytest.raises(InputError, match=r"fit with .*train\.lora \(and sft's\)"):
        check_training_plan(two_stages, 1, 40)


def test_shards_of_a_reward_training_are_named() -> None:
    whole = ["train.optimizer=adamw_torch", "train.dtype=auto"]
    config = load_train_config(CONFIGS / "reward/bradley_terry_llama3.yaml", whole)
    for gpus, said in (
        (1, r"or on \d+ such GPUs with train\.fsdp: true"),
        (8, r"train\.fsdp: true"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            check_training_plan(config, gpus, DEFAULT_MEMORY)
    assert "such GPUs" not in str(caught.value)
    sharded = config.model_copy(update={"train": config.train.model_copy(update={"fsdp": True})})
    assert plan_training(sharded, 8, DEFAULT_MEMORY).problem() is None
    # 16 bytes of each element over the shards; without shards no gradient is held twice
    size = model_size(config.model, "model", "backbone").elements
    for given, shards in ((sharded, 8), (config, 1)):
        parts = plan_training(given, 8, DEFAULT_MEMORY).processes[0].phases["train"]
        held = [parts[name].bytes for name in ("weights", "gradients", "optimizer")]
        each = -(-size // shards)
        assert held == [4 * each, 4 * each, 8 * each]
    # an optimizer that does not know shards is named with another; adapters are not sharded
    paged = load_train_config(CONFIGS / "reward/bradley_terry_llama3.yaml", ["train.dtype=float32"])
    with pytest.raises(InputError, match=r"fsdp: true and train\.optimizer: adamw_torch"):
        check_training_plan(paged, 8, 30)
    adapters = load_train_config(CONFIGS / "reward/mistral_unified_feedback.yaml")
    with pytest.raises(InputError) as caught:
        check_training_plan(adapters, 8, 10)
    assert "fsdp" not in str(caught.value)


def test_policies_that_share_steps_hold_gradients_twice(tmp_path: Path) -> None:
    one, two = (
        process(plan_run(run_of(tmp_path, "4B", {}, trainer_workers=n), 8, 300), "trainer 0")
        for n in (1, 2)
    )
    gradients = [made.phases["train"]["gradients"].bytes for made in (one, two)]
    assert gradients[1] == 2 * gradients[0]


def test_a_control_and_overlap_are_counted(tmp_path: Path) -> None:
    config = run_of(tmp_path, "8B", {"lora": {}}).model_copy(update={"iterations": 6})

    def changed(**values: Any) -> Plan:
        return plan_run(config.model_copy(update=values), 4, DEFAULT_MEMORY)

    plain, other = changed(), changed(control=ControlConfig(every=2))
    tokens, more = ({one.kind: one for one in plan.tokens} for plan in (plain, other))
    # three of six iterations once more, on as many prompts, and every evaluation
    trained = tokens["trained"]
    assert more["trained"].whole == trained.each * (6 + 3) and trained.whole == trained.each * 6
    evaluated = (tokens["drawn"].whole or 0) - 6 * tokens["drawn"].each
    assert more["drawn"].whole == 9 * tokens["drawn"].each + 2 * evaluated
    assert [one.each for one in more.values()] == [one.each for one in tokens.values()]
    # its updates need what the run's do, after them; its checkpoints lie beside the run's last
    assert other.uses() == plain.uses()
    assert other.disk.at_once == 2 * plain.disk.at_once - 1
    ahead = changed(overlap=1)
    trainer, reward = (process(ahead, name).phases for name in ("trainer 0", "reward 0"))
    assert trainer["draw"] == trainer["train"] and reward["train"] == reward["draw"]
    assert "activations" not in process(plain, "reward 0").phases["train"]
    assert ahead.disk.at_once == plain.disk.at_once + 1


def _short(plan: Plan) -> str:
    return "; ".join(note for note in plan.notes() if note.startswith("GPU"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(CONFIGS / "llama3_8b_armorm.yaml")
    assert main(["plan", config, "--gpus", "4", "--gpu-memory", "79.2"]) == 0
    shown = capsys.readouterr().out
    assert "trainer 0" in shown and "thrown away" in shown and "it fits" in shown
    whole = ["train.lora=null", "cluster.rollout_workers=1"]
    assert main(["plan", config, "--gpus", "1", "--json", *whole]) == 2
    out, said = capsys.readouterr()
    found = json.loads(out)
    assert found["fits"] is False and found["problem"].startswith("train")
    assert "train.lora" in said and len(said.splitlines()) == 1
    assert main(["plan", config, "--gpu-memory", "0"]) == 2
    # a run without models, on the CPU
    file = toy_runs.config_file(tmp_path)
    assert main(["plan", str(file), "--gpus", "0", "--json"]) == 0
    tokens = {one["kind"]: one for one in json.loads(capsys.readouterr().out)["tokens"]}
    assert tokens["drawn"]["each_iteration"] == 12 * 4 * 12
    # all are begun, and drawn again to their end
    early = "sampling.early_rejection={tokens: 5, keep: 2}"
    assert main(["plan", str(file), early, "--gpus", "0", "--json"]) == 0
    tokens = {one["kind"]: one for one in json.loads(capsys.readouterr().out)["tokens"]}
    assert tokens["drawn"]["each_iteration"] == 12 * (4 * 5 + 2 * 12)
    assert tokens["thrown away"]["each_iteration"] == 12 * (4 * 5 + 1 * 12)


def test_a_start_is_refused_only_where_it_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toy_runs.write_prompts(tmp_path / "prompts.jsonl", 400)
    prompts = PromptsConfig(path=str(tmp_path / "prompts.jsonl"), max_tokens=512)
    config = run_of(tmp_path, "8B", {}).model_copy(update={"prompts": prompts})
    monkeypatch.setattr("raft.runs.check.check_model_files", lambda *_, **__: None)
    check_run(config, hub=False)  # on a CPU nothing is said
    monkeypatch.setattr(plans, "machine_gpus", lambda: (1, DEFAULT_MEMORY))
    with pytest.raises(InputError, match=r"train\.lora"):
        check_run(config, hub=False)
    monkeypatch.setattr(plans, "machine_gpus", lambda: (1, 128.0))  # 120 and activations
    with caplog.at_level("WARNING", logger="raft"):
        check_run(config, hub=False)
    assert "by estimate" in caplog.text


def test_hours_are_tokens_by_arithmetic_over_the_stated_speed() -> None:
    config = load_config(CONFIGS / "llama3_8b_armorm.yaml", ["train.lora.r=8"])
    plan = plan_run(config, 4, DEFAULT_MEMORY)
    tokens = {one.kind: one.whole or 0 for one in plan.tokens}
    assert plan.hours is not None
    weights = 8.03e9  # of the policy
    seconds = 2 * weights * tokens["drawn"] / (0.1 * 989e12 * config.cluster.rollout_workers)
    assert plan.hours["drawing"] == pytest.approx(seconds / 3600, rel=0.01)
    frozen = config.train.gradient_checkpointing
    seconds = (6 if frozen else 4) * weights * tokens["trained"] / (0.35 * 989e12)
    assert plan.hours["training"] == pytest.approx(seconds / 3600, rel=0.01)
    assert plan_run(config, 0, DEFAULT_MEMORY).hours is None
