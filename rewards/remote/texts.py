"""Turn conversations into what servers without chat templates read: text, or exact token ids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import Any

from rewards.checkpoints.hub import description_folder
from rewards.checkpoints.published import find_published
from rewards.checkpoints.record import with_record
from rewards.checkpoints.settings import ModelSettings
from rewards.encoding.bos import BOS_COUNT, default_bos
from rewards.encoding.encoder import Encoder
from rewards.encoding.eos import default_eos, without_last_newline
from rewards.encoding.formats import Scorable, check_format, render
from rewards.types import Bos, Eos, Format, TruncationSide
from rollout.data.messages import checked_conversation
from rollout.text.printable import one_line
from rollout.types import InputError, Message

__all__ = ["Texts"]

log = logging.getLogger("rewards")


class Texts:
    """How conversations are sent to a server that applies no chat template of its own.

    Args:
        tokenizer: the reward model's, by folder, hub name or as an object; with it come the chat
            format and exact token ids. The model's published settings are used where known.
        format: "chat" (needs the tokenizer), "hh_hash" or "plain".
        bos: how many BOS tokens. None: in token ids, what tokenizer and template would add once;
            in a text, what the template writes, since the server's tokenizer adds its own.
        eos: "single" ends rows and texts in one EOS. None: in token ids, as the model was published
            or one behind plain text; in a text none, since OpenRLHF's server adds one.
        separator: between the messages of "hh_hash".
        max_length: in tokens; longer conversations are cut on `truncation_side` (default: left).

    Raises `InputError` when the settings do not fit each other.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        format: Format | None = None,
        bos: Bos | None = None,
        eos: Eos | None = None,
        separator: str = "",
        max_length: int | None = None,
        truncation_side: TruncationSide | None = None,
    ) -> None:
        known = _known(tokenizer)
        self.tokenizer = _load(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.format: Format = _format(format or known.format, self.tokenizer)
        self.separator = separator
        self.bos: Bos | None = bos
        self.eos: Eos | None = eos
        self.encoder: Encoder | None = None
        if self.tokenizer is None:
            _check_needless(
                bos=bos, eos=eos, max_length=max_length, truncation_side=truncation_side
            )
            return
        self.encoder = Encoder(
            self.tokenizer,
            format=self.format,
            bos=bos or known.bos or default_bos(self.tokenizer, self.format),
            eos=eos or known.eos or default_eos(self.tokenizer, self.format),
            vocabulary=len(self.tokenizer),
            max_length=max_length,
            truncation_side=truncation_side or "left",
            separator=separator,
        )

    def check(self, conversation: Scorable, *, length: bool) -> None:
        """Check that `inputs` would accept the conversation; raises as `Encoder.check` does.

        With `length`, also whether `max_length` would leave anything of the response.
        """
        if self.encoder is not None:
            self.encoder.check(conversation, length=length)
        else:
            self._text(conversation, "the conversation")

    def inputs(
        self, conversations: Sequence[Scorable], names: Sequence[str]
    ) -> list[list[int]] | list[str]:
        """Return N lists of token ids; without a tokenizer, N texts. Raises as `Encoder.encode`."""
        if self.encoder is not None:
            return self.encoder.encode(conversations, names)
        return [self._text(*pair) for pair in zip(conversations, names, strict=True)]

    def queries(
        self, conversations: Sequence[Scorable], names: Sequence[str]
    ) -> list[tuple[str, str]]:
        """Return N pairs (whole text, its beginning up to the response).

        The beginning is "" for a conversation that is given as a text.
        """
        return [self._query(*pair) for pair in zip(conversations, names, strict=True)]

    def describe(self, *, ids: bool) -> dict[str, object]:
        """Return the settings that a score depends on, for token ids (`ids`) or for text."""
        encoder = self.encoder
        return {
            "format": self.format,
            "separator": self.separator,
            "bos": encoder.bos if encoder and ids else self.bos,
            "eos": encoder.eos if encoder and ids else self.eos,
            "max_length": encoder.max_length if encoder else None,
            "truncation_side": encoder.truncation_side if encoder else None,
        }

    def _query(self, conversation: Scorable, name: str) -> tuple[str, str]:
        text = self._text(conversation, name)
        if isinstance(conversation, str):
            return text, ""
        before = checked_conversation(conversation, name)[:-1]
        emptied = [*before, Message(role="assistant", content="")]
        # commonprefix compares characters: these are texts and not paths
        return text, commonprefix([text, self._text(emptied, name)])  # noqa: RUF071

    def _text(self, conversation: Scorable, name: str) -> str:
        try:
            text = render(conversation, self.format, self.tokenizer, self.separator)
        except InputError as error:
            raise InputError(name, error) from error
        if self.bos is not None:
            text = self._with_bos(text, self.bos)
        return self._with_eos(text) if self.eos == "single" else text

    def _with_bos(self, text: str, bos: Bos) -> str:
        token = self.tokenizer.bos_token
        while token and text.startswith(token):
            text = text.removeprefix(token)
        return (token or "") * BOS_COUNT[bos] + text

    def _with_eos(self, text: str) -> str:
        token = self.tokenizer.eos_token
        text = without_last_newline(text) if self.format == "chat" else text
        while text.endswith(token):
            text = text.removesuffix(token)
        return text + token


def _known(tokenizer: object) -> ModelSettings:
    """Return the settings that the model is published with, else those of its `reward.json`.

    Others are left open, as all are for a tokenizer that is not given by name.
    """
    if not isinstance(tokenizer, str):
        return ModelSettings()
    found = find_published(tokenizer)
    if found is None:
        # the format of the record is also in the chat template that was saved with the model
        return replace(with_record(Path(tokenizer).expanduser(), ModelSettings()), format=None)
    name, known = found
    log.info("%s: using the published format, BOS and EOS of %s", tokenizer, name)
    return ModelSettings(format=known.format, bos=known.bos, eos=known.eos)


def _load(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(description_folder(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"tokenizer={name!r}", f"cannot be loaded: {one_line(error)}") from error


def _format(format: Format | None, tokenizer: Any) -> Format:
    if format is None and tokenizer is not None and tokenizer.chat_template:
        return "chat"
    if format is None:
        raise InputError(
            "format",
            "is not given, and this protocol sends text",
            'give tokenizer=… of the reward model (format="chat"), or format="hh_hash" or "plain"',
        )
    check_format(format)
    if format == "chat" and tokenizer is None:
        raise InputError(
            'format="chat"',
            "needs tokenizer=…, the folder or hub name of the model",
        )
    return format


def _check_needless(**settings: object) -> None:
    for name, value in settings.items():
        if value is not None:
            raise InputError(f"{name}={value!r}", "needs tokenizer=…: only it knows the tokens")
