"""A tokenizer of the tokenizers library's kind, small enough to be made here: every byte, some pairs and longer texts, two ends."""

from __future__ import annotations

import json

from llguidance import LLTokenizer

from ananke_server.masking.tokenizer import TokenizerSource

_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_MERGES = ('{"', '":', '",', '"}', "ab", "abc", "tr", "ue", "true", "12", "xx", "xxxx")


def small_source() -> TokenizerSource:
    """270 tokens, the last two of which end an output."""
    letters = _byte_letters()
    vocabulary = {letters[byte]: byte for byte in range(256)}
    merges: list[list[str]] = []
    for text in _MERGES:
        whole = text
        # The longest prefix that is a token, and the rest, which has to be one too.
        cut = max(size for size in range(1, len(whole)) if whole[:size] in vocabulary and whole[size:] in vocabulary)
        vocabulary.setdefault(whole, len(vocabulary))
        merges.append([whole[:cut], whole[cut:]])
    ends = (len(vocabulary), len(vocabulary) + 1)
    content = {
        "version": "1.0",
        "added_tokens": [_special(end, f"<end{index}>") for index, end in enumerate(ends)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
    return TokenizerSource(json.dumps(content), ends)


def small_tokenizer() -> LLTokenizer:
    return small_source().load()


def _byte_letters() -> list[str]:
    """GPT-2's letters for bytes: those that print stand for themselves, the others for the next code points after 255."""
    others = iter(range(256, 512))
    return [chr(byte) if byte in _PRINTED else chr(next(others)) for byte in range(256)]


def _special(token: int, text: str) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": text, **flags}
