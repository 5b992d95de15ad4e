"""Check the address of a reward server, and the token that it asks for, which is never printed."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from rollout.types import InputError

__all__ = ["Address", "is_loopback", "make_address", "read_token"]

_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Address:
    """A checked URL and an optional bearer token, which no message or `repr` shows."""

    url: str
    token: str | None = field(default=None, repr=False)

    @property
    def loopback(self) -> bool:
        return is_loopback(urlsplit(self.url).hostname or "")

    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def masked(self, text: str) -> str:
        """Return `text` with *** for the token: some servers send back what they were sent."""
        return text if self.token is None else text.replace(self.token, "***")


def make_address(
    url: str, route: str, *, token: str | None = None, token_env: str | None = None
) -> Address:
    """Return the address of a server; a URL without a path gets `route`, one with a path is final.

    Raises `InputError` when the URL or the token cannot be used.
    """
    parts = _split(url)
    if parts.path in ("", "/"):
        url = f"{parts.scheme}://{parts.netloc}{route}"
    return Address(url, read_token(token, token_env))


def read_token(token: str | None = None, token_env: str | None = None) -> str | None:
    """Return `token`, or the value of the environment variable `token_env`; None without both.

    Raises `InputError` when both are given, the variable is not set, or the token has spaces or
    characters that no HTTP header can hold.
    """
    if token is not None and token_env is not None:
        raise InputError("token, token_env", "are both given", "give one of them")
    source = "token" if token_env is None else f"token_env={token_env}"
    found = token if token_env is None else os.environ.get(token_env, "")
    if found is None:
        return None
    if not found:
        raise InputError(source, "is empty or not set", "export the server's token in it")
    if _TOKEN.fullmatch(found) is None:
        raise InputError(source, "has spaces or characters that no HTTP header can hold")
    return found


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`: a loopback address or "localhost"."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"


def _split(url: str) -> SplitResult:
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise InputError(
            "reward url", "is no address", "give one like http://127.0.0.1:8100, without spaces"
        )
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise InputError("reward url", error, "give one like http://127.0.0.1:8100") from error
    if "@" in parts.netloc:
        raise InputError("reward url", "it has a user or password", "use token_env for the secret")
    if not known:
        raise InputError(
            f"reward url {url!r}", "is no address", "give one like http://127.0.0.1:8100"
        )
    if parts.query or parts.fragment:
        raise InputError(
            f"reward url {url.split('?')[0]!r}",
            "has a query or a fragment",
            "leave out what follows ? or #",
        )
    return parts
