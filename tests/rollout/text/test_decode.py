from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.text.decode import cut_at_stop, decode_continuations, find_stop


def sentencepiece_like() -> Any:
    """Llama 2's scheme: words begin with ▁, unknown characters are spelled in bytes, and the
    decoder strips the first space of whatever it is given."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *"abcdefghijklmnopqrstuvwxyz.", "▁a", "▁b"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("▁", "a"), ("▁", "b")]
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZER = sentencepiece_like()
TEXTS = st.text(alphabet="ab .éあ😀", min_size=1, max_size=12)


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(TEXTS, TEXTS)
def test_prompt_and_response_make_the_whole(prompt: str, response: str) -> None:
    # words, spaces at the seam, characters that are several byte tokens
    whole = ids_of(prompt + response)
    prompt_ids = ids_of(prompt)
    if whole[: len(prompt_ids)] != prompt_ids:  # a merge across the seam: nobody samples that
        return
    (text,) = decode_continuations(TOKENIZER, prompt_ids, [whole[len(prompt_ids) :]])
    assert prompt + text == TOKENIZER.decode(whole) == prompt + response


def test_the_context_is_long_enough_for_characters_of_many_tokens() -> None:
    # the last four tokens of the prompt are the second half of one character and all of another;
    # decoded from there, the whole run of bytes would be broken characters, the response's too
    prompt, response = ids_of("ああ"), [3 + byte for byte in "い".encode()]
    assert decode_continuations(TOKENIZER, prompt, [response]) == ["い"]
    # a prompt that ends with tokens that say nothing
    quiet = [*ids_of("a b"), *[TOKENIZER.eos_token_id] * 6]
    assert decode_continuations(TOKENIZER, quiet, [ids_of("a")]) == [" a"]


@pytest.mark.parametrize(
    ("text", "stops", "start", "expected"),
    [
        ("one two", ["two"], 0, 4),
        ("one two", ["two", "ne"], 0, 1),
        ("one two", ["three"], 0, None),
        ("", ["a"], 0, None),
        ("aab", ["a"], 1, 1),  # the first one ends before character 1
        ("abab", ["ab"], 2, 2),
        ("abab", ["ab"], 1, 0),  # one that only begins before it still counts
        ("abab", ["ab"], 4, None),
    ],
)
def test_find_stop(text: str, stops: list[str], start: int, expected: int | None) -> None:
    assert find_stop(text, stops, start) == expected


def test_cut_at_stop_keeps_the_token_that_completes_it() -> None:
    prompt, ids = ids_of("a"), [*ids_of("a b"), *ids_of(".b")[1:]]  # " a", " b", ".", "b"
    assert cut_at_stop(TOKENIZER, prompt, ids, ["."]) == (ids[:3], " a b")
    assert cut_at_stop(TOKENIZER, prompt, ids, [" b"]) == (ids[:2], " a")
    assert cut_at_stop(TOKENIZER, prompt, ids, ["b"], min_new_tokens=2) == (ids, " a b.")
    assert cut_at_stop(TOKENIZER, prompt, ids, ["c"]) is None
