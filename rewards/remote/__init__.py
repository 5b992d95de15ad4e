"""Ask for rewards and verdicts over HTTP: a client, and a server that speaks the same JSON.

Importing this package loads neither an HTTP library nor numpy: names are resolved on first use.

Our JSON, version 1. Requests are POSTed; a token, where one is set, goes in the header
`Authorization: Bearer …`. Every key that is not marked optional is required.

`/score` takes whole conversations, the assistant's response last, or whole texts:

    {"conversations": [[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}],
                       "a whole text", …], "ids": ["one of each, optional"],
     "model": "optional: refuse to answer as another"}
    -> {"scores": [1.5, null, …], "ids": [those of the request, in its order],
        "model": "the name of what answered", "version": 1}

Our clients send ids, and refuse an answer that does not repeat them.

Instead of conversations `/score` takes groups, the rows of a rollout file. K responses of one
prompt always travel together, and "scores" then has one list of K per group. All keys but "prompt"
and "responses" are optional:

    {"groups": [{"id": "p1", "prompt": "text" or [{"role", "content"}, …], "responses": ["…", …],
                 "fields": {"answer": "4"}, "token_ids": [[1, 2], …],
                 "finish_reasons": ["stop" or "length", …]}, …]}
    -> {"scores": [[1.5, null, …], …], "ids": […], "model": "…", "version": 1}

null is a missing score. NaN and Infinity are not JSON and count as failures.

`/compare` asks a judge for P(first is better), in [0, 1]; null is a missing verdict:

    {"comparisons": [{"prompt": [{"role", "content"}, …], "first": "…", "second": "…"}, …]}
    -> {"probabilities": [0.7, …], "ids": […], "model": "…", "version": 1}

`/get_reward` is OpenRLHF's: {"query": ["whole text", …]} -> {"rewards": [1.5, …]}. `/health`
answers a GET without a token: {"status": "ok", "routes": […], "version": 1}.

A failure is {"error": "one line"} with status 400 (the request), 401 (the token), 404 (the route),
405 (the method), 408 (the body did not arrive in time), 413 (too large), 500 (no reward could be
computed) or 503 (too many requests). Clients try again after 429, 500, 502, 503 and 504 only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.remote.client import RemoteJudge, RemoteReward
    from rewards.remote.server import build_app, serve

__all__ = ["RemoteJudge", "RemoteReward", "build_app", "serve"]

_HOMES = {
    "RemoteJudge": "rewards.remote.client",
    "RemoteReward": "rewards.remote.client",
    "build_app": "rewards.remote.server",
    "serve": "rewards.remote.server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
