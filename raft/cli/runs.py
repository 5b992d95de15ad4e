"""The commands that make a run and show it: demo, run, validate, plan, curves, report."""

from __future__ import annotations

import argparse
from functools import partial

from raft.cli.options import (
    AddCommand,
    add_json,
    add_old_name,
    add_seed,
    count,
    names,
    positive,
    print_result,
    run_folder,
)
from rollout.errors import InputError

__all__ = ["add_curves", "add_demo", "add_plan", "add_report", "add_run", "add_validate"]

_DEMO = """\
examples:
  raft demo                          two to three minutes on two cores
  raft demo --out-dir /tmp/demo --seed 1

The folder holds policy/, preferences.jsonl, reward_model/ and raft/, the run with curves.png.
Finished parts are kept when the command is run again.
"""
_RUN = """\
examples:
  raft run configs/stories_cpu.yaml
  raft run configs/hh_gpt_neo_2.7b.yaml sampling.k=16 run_dir=runs/k16

The run folder is run_dir of the config. The same command resumes an interrupted run.
"""
_VALIDATE = """\
examples:
  raft validate configs/stories_cpu.yaml
  raft validate configs/hh_llama_7b.yaml cluster.rollout_workers=4
  raft validate --keys               every key of a run's config with its default
  raft validate --keys configs/reward/stories_pairs_cpu.yaml     those of a reward training

Files, folders, functions, lengths and data are looked at, in seconds; configs of raft train-reward
are checked too.
"""
_PLAN = """\
examples:
  raft plan configs/llama3_8b_armorm.yaml --gpus 4
  raft plan configs/hh_llama_7b.yaml --gpus 8 --gpu-memory 79 policy.model=path/to/sft
  raft plan configs/reward/bradley_terry_llama3.yaml --gpus 1 train.lora.r=32

Memory of every process and GPU, disk and tokens, from config.json files alone, for runs and for
configs of raft train-reward. Weights, gradients, optimizer and caches are counted; activations are
estimated for the longest rows that the config allows. What does not fit ends with exit code 2 and
the settings that would.
"""
_CURVES = """\
examples:
  raft curves runs/k8                                     writes runs/k8/curves.png
  raft curves runs/k8 runs/k16 --out k8_against_k16.png
  raft curves K=8=runs/k8 K=16=runs/k16 --style paper --out curves.pdf
  raft curves baseline=runs/b0,runs/b1,runs/b2 ours=runs/o0,runs/o1,runs/o2
  raft curves runs/k8 --x eval/kl_k1 --x-scale sqrt       proxy and gold against KL
  raft curves runs/k8 --panels reward,diversity,time --data numbers.csv

panels: reward, gold, proxy_gold, win_rate, kl, length, diversity, perplexity, time
"""
_REPORT = """\
examples:
  raft report runs/mine                        writes runs/mine/report.html
  raft report runs/mine --out mine.html --max-prompts 200
  raft report runs/k16 runs/k8 --out both.html     curves, settings, samples side by side

The page is one file that loads nothing from outside, so it can be passed on. It holds every prompt
and response but no token ids, scores to six digits, and passwords in the config as ***. A run of
100 MB makes a page of about 20 MB, which opens at once: samples are unpacked when they are shown,
by any browser from 2023 on. Damaged and missing parts of a run are named, and the rest is shown.
"""


def add_demo(command: AddCommand) -> None:
    """Add `raft demo`."""
    made = command(
        "demo", _demo, "train a policy and a reward model and run RAFT, offline on a CPU", _DEMO
    )
    out = made.add_argument(
        "--out-dir", default="demo", metavar="DIR", help="folder to fill (default: demo)"
    )
    add_old_name(made, "--out", out)
    add_seed(made, "everything that is drawn")


def _demo(options: argparse.Namespace) -> int:
    from raft.demo.demo import run_demo

    run_demo(options.out_dir, options.seed)
    return 0


def add_run(command: AddCommand) -> None:
    """Add `raft run`."""
    made = command("run", _run, "run RAFT iterations, or resume an interrupted run", _RUN)
    made.add_argument("config", metavar="CONFIG", help="YAML file; configs/ has examples")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="config key to override: sampling.k=16"
    )
    add_json(made, "the run folder and its last metrics")


def _run(options: argparse.Namespace) -> int:
    from raft.api.runs import run

    found = run(options.config, options.overrides)
    result: dict[str, object] = {"run_dir": str(found.run_dir), "curves": str(found.curves)}
    result["metrics"] = found.metrics[-1]
    print_result(options, result, f"curves: {found.curves}")
    return 0


def add_validate(command: AddCommand) -> None:
    """Add `raft validate`."""
    made = command("validate", _validate, "check a config without running it", _VALIDATE)
    made.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="config key to override")
    made.add_argument("--keys", action="store_true", help="list every key with its default")
    add_json(made)


def _validate(options: argparse.Namespace) -> int:
    from raft.config.load import RunConfig, describe_keys, is_training, make_config, read_mapping
    from raft.config.train_reward import TrainRewardConfig, make_train_config

    if options.config is None and not options.keys:
        raise InputError("validate", "no config file is given", "name one, or give --keys")
    data: dict[str, object] = {}
    where = str(options.config)
    if options.config is not None:
        data = read_mapping(options.config, options.overrides, examples="configs/")
    if options.keys:
        lines = describe_keys(TrainRewardConfig if is_training(data) else RunConfig)
        print_result(options, {"keys": lines}, "\n".join(lines))
        return 0
    if is_training(data):
        from raft.reward_training.check import check_training

        config = make_train_config(data, where)
        check_training(config, hub=False)
        use, detail = "raft train-reward", f" (recipe {config.recipe})"
    else:
        from raft.runs.check import check_run

        check_run(make_config(data, where), hub=False)
        use, detail = "raft run", ""
    result = {"config": options.config, "valid": True, "command": use}
    print_result(options, result, f"{options.config}: valid, for {use}{detail}")
    return 0


def add_plan(command: AddCommand) -> None:
    """Add `raft plan`."""
    made = command(
        "plan", _plan, "show the memory, disk and tokens that a config needs, before it runs", _PLAN
    )
    made.add_argument("config", metavar="CONFIG", help="YAML file; configs/ has examples")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="config key to override")
    made.add_argument(
        "--gpus", type=count, metavar="N",
        help="plan for so many, 0 for the CPU (default: cluster.gpus, else this machine's)",
    )  # fmt: skip
    made.add_argument(
        "--gpu-memory", type=float, metavar="GiB",
        help="that torch gets of each GPU (default: this machine's, else 79.2, of an H100 80 GB)",
    )  # fmt: skip
    add_json(made)


def _plan(options: argparse.Namespace) -> int:
    from raft.config.load import is_training, make_config, read_mapping
    from raft.config.train_reward import make_train_config
    from raft.plan.plan import DEFAULT_MEMORY, check_plan, machine_gpus, plan_run
    from raft.plan.show import plan_json, plan_text
    from raft.plan.training import check_training_plan, plan_training

    if options.gpu_memory is not None and not options.gpu_memory > 0:
        raise InputError("--gpu-memory", f"is {options.gpu_memory:g} GiB", "give a number above 0")
    named = str(options.config)
    data = read_mapping(named, options.overrides, examples="configs/")
    here, held = machine_gpus()
    memory: float = options.gpu_memory or held or DEFAULT_MEMORY
    gpus: int = here if options.gpus is None else options.gpus
    if is_training(data):
        training = make_train_config(data, named)
        plan, check = plan_training(training, gpus, memory), partial(check_training_plan, training)
    else:
        config = make_config(data, named)
        if options.gpus is None and config.cluster.gpus is not None:
            gpus = config.cluster.gpus
        plan, check = plan_run(config, gpus, memory), partial(check_plan, config)
    print_result(options, plan_json(plan), plan_text(plan))
    if plan.problem() is not None:
        check(gpus, memory)  # raises InputError, which names settings that would fit
    return 0


def add_curves(command: AddCommand) -> None:
    """Add `raft curves`."""
    made = command(
        "curves", _curves, "plot the metrics of one run or of several in one picture", _CURVES,
        interrupted="interrupted; no picture was written",
    )  # fmt: skip
    made.add_argument(
        "runs", nargs="+", metavar="RUN", type=run_folder,
        help="run folder; LABEL=RUN names it, LABEL=RUN,RUN,… draws the mean of several seeds "
        "with its interval over runs",
    )  # fmt: skip
    made.add_argument(
        "--out", metavar="FILE",
        help="PNG, SVG or PDF; without a suffix a PNG and an SVG (default: curves.png in the run "
        "folder, for several runs in the current folder)",
    )  # fmt: skip
    made.add_argument(
        "--panels", type=names, metavar="NAME,…",
        help="panels to draw (default: reward, gold and KL where runs have them; the win rate "
        "where the reward is a judge)",
    )  # fmt: skip
    made.add_argument(
        "--metrics", type=names, metavar="KEY,…", help="draw a panel for each key of metrics.jsonl"
    )
    made.add_argument(
        "--x", default="iteration", metavar="KEY",
        help="metric on the horizontal axis (default: iteration)",
    )  # fmt: skip
    made.add_argument(
        "--x-scale", choices=("linear", "sqrt", "log"), default="linear",
        help="scale of the horizontal axis (default: linear)",
    )  # fmt: skip
    made.add_argument("--labels", type=names, metavar="NAME,…", help="one label for each RUN")
    made.add_argument(
        "--style", choices=("screen", "paper"), default="screen",
        help="paper has 7 pt type at full size, lettered panels and embedded fonts "
        "(default: screen)",
    )  # fmt: skip
    made.add_argument(
        "--width", type=float, metavar="INCHES",
        help="width of the picture; a column of a paper is 3.25 wide, its page 6.75",
    )  # fmt: skip
    made.add_argument("--data", metavar="FILE", help="write the drawn numbers too, .csv or .json")
    add_json(made, "the names of the files")


def _curves(options: argparse.Namespace) -> int:
    from raft.api.runs import draw_curves

    found = draw_curves(
        options.runs,
        options.out,
        panels=options.panels,
        metrics=options.metrics,
        x=options.x,
        x_scale=options.x_scale,
        labels=options.labels,
        style=options.style,
        width=options.width,
        data=options.data,
    )
    paths = [*map(str, found.files), *([options.data] if options.data else [])]
    print_result(options, {"files": paths}, "\n".join(paths))
    return 0


def add_report(command: AddCommand) -> None:
    """Add `raft report`."""
    made = command(
        "report", _report, "write one HTML page about a run: curves, samples, times, settings",
        _REPORT,
    )  # fmt: skip
    made.add_argument(
        "runs", nargs="+", metavar="RUN", type=run_folder,
        help="run folder, of a finished run or not; further ones are shown beside the first"
    )  # fmt: skip
    made.add_argument(
        "--out", metavar="FILE", help="HTML file (default: report.html in the run folder)"
    )
    limit = made.add_argument(
        "--max-prompts", type=positive, metavar="N",
        help="most prompts to take from each file (default: all)",
    )  # fmt: skip
    add_old_name(made, "--prompts", limit)
    add_json(made, "the name of the page")


def _report(options: argparse.Namespace) -> int:
    from raft.api.runs import write_report

    page = str(write_report(options.runs, options.out, max_prompts=options.max_prompts).path)
    print_result(options, {"report": page}, page)
    return 0
