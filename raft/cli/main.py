"""The command `raft`: parse arguments before anything heavy is imported, run, report errors."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from raft import __version__
from raft.cli.doctor import add_doctor
from raft.cli.options import Parser
from raft.cli.process import (
    Ended,
    Ending,
    check_directory,
    complain,
    discard_stdout,
    end_quickly,
    end_soon,
    reader_is_gone,
    say_no_more,
    surroundings,
)
from raft.cli.replay import add_eval_pool, add_replay
from raft.cli.reward_models import add_eval_reward, add_train_reward
from raft.cli.rewards import add_rank, add_score, add_serve_reward
from raft.cli.runs import (
    add_curves,
    add_demo,
    add_plan,
    add_report,
    add_run,
    add_validate,
)
from raft.cli.sampling import add_bon, add_sample
from raft.cli.show import add_push, add_watch
from raft.logs import log_for_command
from rewards.types import RewardError
from rollout.errors import InputError, nccl_failure
from rollout.storage.files import refusal

log = logging.getLogger("raft")

_DEBUG = "RAFT_DEBUG"
_COMMANDS = (
    add_demo, add_run, add_validate, add_plan, add_watch, add_curves, add_report, add_push,
    add_replay, add_eval_pool, add_sample, add_bon, add_score, add_rank, add_train_reward,
    add_eval_reward, add_doctor, add_serve_reward,
)  # fmt: skip
# commands that print while they work, not only at the end
_PRINT_BETWEEN = ("demo", "doctor", "watch")
# a setting in an error's text, as `section.name=value`; not within a path or an option's name
_SETTING = re.compile(
    r"(?<![\w./'\"=-])((?:sampling|policy|prompts|reward|judge)\.)?([a-z]+(?:_[a-z]+)*)"
    r"(=(?:'[^']*'|\"[^\"]*\"|[^\s:,;]*))?(?![\w./-]|\.\w)"
)
_EPILOG = """\
first steps:
  raft demo                                 the whole story, offline on a CPU
  raft run configs/stories_cpu.yaml         RAFT iterations; the same command resumes
  raft run configs/hh_gpt_neo_2.7b.yaml sampling.k=16 run_dir=runs/k16
  raft score --reward MODEL FILE.jsonl      scores for a file of responses
  raft COMMAND --help                       options and examples of a command

exit codes: 0 done, 1 a fault of raft, 2 wrong input, 130 interrupted, 143 ended by SIGTERM
RAFT_DEBUG=1 shows the traceback of any failure
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error is caught and reported here."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, ending = argparse.Namespace(), Ending()
    try:
        with surroundings() as ending:
            options = _parse(arguments)
            ending.words = options.interrupted
            check_directory()
            log_for_command(quiet=options.quiet)
            log_old_names(options)
            code = _run(options)
            sys.stdout.flush()  # so that a full disk fails here, where errors are reported
            return code
    except KeyboardInterrupt as interrupt:
        complain(ending.words)
        return interrupt.code if isinstance(interrupt, Ended) else ending.code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            discard_stdout()  # nobody reads a message
            # a reader that stops has what it wanted, unless the command had more to do than print
            return 128 + signal.SIGPIPE if getattr(options, "prints_between", False) else 0
        if os.environ.get(_DEBUG):
            raise
        return _told(error, arguments, options)


def command() -> int:
    """Run `main` as the whole of this process, and return its exit code.

    After a signal the process ends within seconds, even where a thread still waits.
    """
    atexit.register(say_no_more)
    code = main()
    if code > 128:  # a signal ended the command
        end_soon(code)
    end_quickly()
    return code


def log_old_names(options: argparse.Namespace) -> None:
    """Log one warning for each old name of an option that was used."""
    for old, new in dict.fromkeys(getattr(options, "old_names", [])):
        log.warning("%s is now called %s; the old name works for one more release", old, new)


def _run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code.

    Raises RuntimeError where a library leaves the command by SystemExit, which would otherwise end
    the process with the library's own exit code, perhaps 0.
    """
    try:
        return options.command(options) or 0
    except (KeyboardInterrupt, Exception):
        raise
    except BaseException as error:
        raise RuntimeError(f"the command was left by {type(error).__name__}: {error}") from error


def _told(error: Exception, arguments: Sequence[str], options: argparse.Namespace) -> int:
    """Report an error in one line on stderr and return the exit code.

    The code is 2 for what the user can fix (input, rewards, files, the GPUs' network), else 1.
    """
    # a reward function is the user's own code; the same command resumes once it is fixed
    if isinstance(error, InputError | RewardError):
        told = str(error)
        complain(_as_flags(told, options) if isinstance(error, InputError) else told)
        return 2
    if refused := refusal(error):
        if getattr(error, "filename", None) is None:
            discard_stdout()  # stdout itself may be on the full disk
        complain(str(refused))
        return 2
    if failure := nccl_failure(error, "torchrun"):
        complain(str(failure))
        return 2
    complain(f"{type(error).__name__}: {error} ({_traceback_place(error, arguments)})")
    return 1


def _as_flags(text: str, options: argparse.Namespace) -> str:
    """Return an error's text, settings that are options of the command written as `--options`.

    The functions below the command line write them as `name=value`, `section.name` or `long_name`.
    The text stays as it is for a command that reads a config, where settings are keys.
    """
    if hasattr(options, "overrides"):
        return text
    return _SETTING.sub(lambda match: _flag(match, vars(options)), text)


def _flag(match: re.Match[str], known: Mapping[str, object]) -> str:
    section, name, value = match[1], match[2], match[3]
    if name not in known or not (section or value or "_" in name):
        return match[0]
    told = value[1:].strip("'\"") if value else ""
    return f"--{name.replace('_', '-')} {told}".rstrip()


def _traceback_place(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback to a new temporary file and return words that say where to find it."""
    import shlex
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="raft-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(f"raft {__version__}: raft {shlex.join(arguments)}\n\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"set {_DEBUG}=1 to see the traceback"
    return f"traceback: {file.name}; {_DEBUG}=1 shows it here"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; config overrides may follow an option: `run x.yaml --quiet a=b`.

    Raises InputError for words that no option or argument takes.
    """
    line = parser()
    try:
        options, rest = line.parse_known_args(arguments)
    except SystemExit:  # --help and --version print and exit
        sys.stdout.flush()
        raise
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        line.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def parser() -> Parser:
    """Return the parser of the whole command line, with every command."""
    parser = Parser(
        prog="raft",
        description="Align a language model with a reward model: RAFT, best-of-n, reward curves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"raft {__version__}")
    common = Parser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="log warnings only")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        examples: str,
        *,
        interrupted: str | None = None,
    ) -> Parser:
        made = commands.add_parser(
            name, help=text, description=f"{text[:1].upper()}{text[1:]}.", epilog=examples,
            parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        interrupted = interrupted or "interrupted; the same command goes on from here"
        made.set_defaults(
            command=run, interrupted=interrupted, prints_between=name in _PRINT_BETWEEN
        )
        return made

    for add in _COMMANDS:
        add(command)
    return parser
