"""The commands that show a run to others: watch, push."""

from __future__ import annotations

import argparse
import logging

from raft.cli.options import AddCommand, add_json, count, print_result, run_folder

__all__ = ["add_push", "add_watch"]

_WATCH = """\
examples:
  raft watch runs/mine                 the report at http://127.0.0.1:8300, as rows arrive
  raft watch runs/mine --port 0        at any free port

The page is served to this machine alone; from elsewhere use a tunnel: ssh -L 8300:127.0.0.1:8300
"""
_PUSH = """\
examples:
  raft push runs/mine --to me/my-model --dry-run       writes card.md, names the files, offline
  raft push runs/mine --to me/my-model --private

The card states base model, reward, K, held-out curve and data. Read it before it is public: it has
paths of this machine. HF_TOKEN or `hf auth login` gives the right to write.
"""


def add_watch(command: AddCommand) -> None:
    """Add `raft watch`."""
    made = command(
        "watch", _watch, "show the report of a run in a browser while it runs", _WATCH,
        interrupted="stopped watching",
    )  # fmt: skip
    made.add_argument(
        "run", metavar="RUN", type=run_folder, help="run folder; it may yet have to begin"
    )
    made.add_argument(
        "--port", type=count, default=8300, metavar="N", help="port, 0 for any free one "
        "(default: 8300)"
    )  # fmt: skip


def _watch(options: argparse.Namespace) -> int:
    from raft.report.watch import serve_live

    # the page itself names what is missing; logging the same for every page would fill the terminal
    for name in ("raft", "rollout"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with serve_live(options.run, options.port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
    return 0


def add_push(command: AddCommand) -> None:
    """Add `raft push`."""
    made = command("push", _push, "upload the policy of a run to the hub, with its card", _PUSH)
    made.add_argument("run", metavar="RUN", type=run_folder, help="run folder")
    made.add_argument("--to", required=True, metavar="OWNER/NAME", help="repository on the hub")
    made.add_argument(
        "--iteration", type=count, metavar="N", help="whose policy (default: the best)"
    )
    made.add_argument("--private", action="store_true", help="make a private repository")
    made.add_argument(
        "--dry-run", action="store_true", help="write the card and name the files, upload nothing"
    )
    add_json(made)


def _push(options: argparse.Namespace) -> int:
    from raft.runs.push import push

    found = push(
        options.run, options.to, iteration=options.iteration, private=options.private,
        dry_run=options.dry_run,
    )  # fmt: skip
    sizes = {name: path.stat().st_size for name, path in found.files.items()}
    text = [f"{size / 1e6:10.2f} MB  {name}" for name, size in sizes.items()]
    text += [f"card: {found.card}", f"pushed: {found.url}" if found.url else "nothing was uploaded"]
    result = {
        "repository": found.repository, "iteration": found.iteration, "card": str(found.card),
        "files": sizes, "url": found.url,
    }  # fmt: skip
    print_result(options, result, "\n".join(text))
    return 0
