"""Models by name: what is asked of the hub, and what a name that it lacks is told."""

from __future__ import annotations

from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from wording import words

from rewards.checkpoints.hub import check_model, description_folder, local_folder
from rewards.remote.texts import Texts
from rollout.errors import InputError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has every model, as the list of what it was asked for."""
    asked: list[list[str]] = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.fixture
def failing(monkeypatch):
    """Makes the hub fail with an error; counts how often it was asked."""
    asked = []

    def fail(error: Exception) -> list[str]:
        def snapshot_download(name, allow_patterns):
            asked.append(name)
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return fail


def test_a_check_never_fetches_weights(hub, tmp_path):
    assert description_folder("owner/name") == tmp_path
    check_model("owner/name", "policy.model")
    assert not any("safetensors" in one or ".bin" in one for patterns in hub for one in patterns)


def test_bin_files_only_where_there_are_no_safetensors(hub, tmp_path):
    local_folder("owner/name")
    weights = [[one for one in patterns if ".bin" in one or "safe" in one] for patterns in hub]
    bins = [
        "pytorch_model*.bin",
        "adapter_model.bin",
        "value_head.bin",
    ]  # no optimizer, no arguments
    assert weights == [["*.safetensors"], bins]
    hub.clear()
    (tmp_path / "model.safetensors").touch()
    local_folder("owner/name")
    assert [patterns[-1] for patterns in hub] == ["*.safetensors"]
    assert not any(one.endswith(".py") or one == "*" for patterns in hub for one in patterns)


RESPONSE: Any = httpx.Response(404, request=httpx.Request("GET", "http://127.0.0.1"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LocalEntryNotFoundError("offline"), "not in the cache, and the hub cannot be reached"),
        (RepositoryNotFoundError("404", response=RESPONSE), "no such model"),
        (GatedRepoError("403", response=RESPONSE), "accept its terms"),
        (OSError("odd"), "OSError network"),
    ],
)
def test_a_name_that_cannot_be_had_is_asked_for_once(failing, error, reason):
    asked = failing(error)
    with pytest.raises(InputError, match=words(f"reward.model: owner/nmae {reason}")):
        check_model("owner/nmae", "reward.model")
    with pytest.raises(InputError, match=words(f"owner/nmae {reason}")):
        local_folder("owner/nmae")
    with pytest.raises(InputError, match=words(f"tokenizer='owner/nmae' {reason}")):
        Texts("owner/nmae", format="chat")
    assert asked == ["owner/nmae"] * 3


def test_what_is_no_hub_name():
    for name in ("a b", "x//y"):
        with pytest.raises(InputError, match="HFValidationError"):
            description_folder(name)
    with pytest.raises(InputError, match=words("a b model folder hub name")):
        local_folder("a b")
