"""The command `raft`. Arguments are parsed before anything heavy is imported."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from raft import __version__
from raft.cli.doctor import add_doctor
from raft.cli.reward_models import add_eval_reward, add_train_reward
from raft.cli.rewards import add_reward_commands, add_serve
from raft.cli.runs import add_curves, add_replay, add_report
from raft.cli.sampling import add_sampling
from rewards.types import RewardError
from rollout.engines.environment import quiet_libraries, spin_briefly
from rollout.errors import InputError

_DEBUG = "RAFT_DEBUG"
_EPILOG = """\
first steps:
  raft demo                                 the whole story, offline, on a CPU
  raft run configs/stories_cpu.yaml         RAFT iterations; the same command resumes
  raft run configs/hh_gpt_neo_2.7b.yaml sampling.k=16 run_dir=runs/k16
  raft score --reward MODEL FILE.jsonl      scores for a file of responses

exit codes: 0 done, 1 a fault of ours, 2 your input is wrong, 130 interrupted
RAFT_DEBUG=1 shows the traceback of any failure
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parse(arguments)
    quiet_libraries()
    spin_briefly()
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("raft", "rollout", "rewards"):
        logging.getLogger(name).setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        with _full_disk_behind_stdout():
            return options.command(options) or 0
    except (InputError, RewardError) as error:
        if os.environ.get(_DEBUG):
            raise
        # a reward function is the user's own code, and a run goes on where its failure left it
        _complain(str(error))
        return 2
    except BrokenPipeError:
        # the reader of our output went away; nothing is left to say
        _discard_stdout()
        return 1
    except KeyboardInterrupt:
        _complain(
            getattr(options, "interrupted", "interrupted; the same command goes on from here")
        )
        return 130
    except Exception as error:  # whatever it is, a user gets one line and a way to see the rest
        if os.environ.get(_DEBUG):
            raise
        _complain(f"{type(error).__name__}: {error} (set {_DEBUG}=1 to see where it came from)")
        return 1


@contextlib.contextmanager
def _full_disk_behind_stdout() -> Iterator[None]:
    """What is printed is part of the work: where it cannot be written, the user is told."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _discard_stdout()
        where = error.filename or "standard output"
        raise InputError(where, "no space left", "free some and run the command again") from error


def _discard_stdout() -> None:
    """What is still buffered would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    print("raft:", " ".join(message.split()), file=sys.stderr)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """As `parse_args`, but overrides may stand after an option too: `run x.yaml --quiet a=b`."""
    line = parser()
    options, rest = line.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        line.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def parser() -> argparse.ArgumentParser:
    """The command line, without running anything."""
    parser = argparse.ArgumentParser(
        prog="raft",
        description="Align a language model with a reward model: RAFT, best-of-n, reward curves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"raft {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="warnings only")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, text: str, run: object) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(command=run)
        return made

    demo = command("demo", "policy, reward model and RAFT from nothing, offline on a CPU", _demo)
    demo.add_argument("--out", default="demo", help="folder it fills (default: demo)")
    demo.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")

    run = command("run", "RAFT iterations; resumes when the run folder exists", _run)
    run.add_argument("config", help="YAML file; configs/ has examples")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="for example sampling.k=16")

    add_curves(command)
    add_report(command)
    add_replay(command)
    add_sampling(command)
    add_reward_commands(command)
    add_train_reward(command)
    add_eval_reward(command)
    add_doctor(command)
    add_serve(command)

    validate = command("validate", "check a config without running it", _validate)
    validate.add_argument("config", nargs="?", help="YAML file")
    validate.add_argument("overrides", nargs="*", metavar="key=value")
    validate.add_argument("--keys", action="store_true", help="list every key with its default")
    return parser


def _demo(options: argparse.Namespace) -> int:
    from raft.demo.demo import run_demo

    run_demo(options.out, options.seed)
    return 0


def _run(options: argparse.Namespace) -> int:
    from raft.config.load import load_config
    from raft.loop import run

    folder = run(load_config(options.config, options.overrides))
    print(f"curves: {folder / 'curves.png'}")
    return 0


def _validate(options: argparse.Namespace) -> int:
    from raft.config.load import describe_keys, is_training, make_config, read_mapping
    from raft.config.train_reward import make_train_config

    if options.keys:
        print("\n".join(describe_keys()))
        return 0
    if options.config is None:
        raise InputError("validate", "no config file given", "name one, or give --keys")
    data = read_mapping(options.config, options.overrides, examples="configs/")
    if is_training(data):
        recipe = make_train_config(data, options.config).recipe
        print(f"{options.config}: valid, for raft train-reward (recipe {recipe})")
    else:
        make_config(data, options.config)
        print(f"{options.config}: valid, for raft run")
    return 0
