"""Tokenizers made in memory, each of which behaves as one of a real LMM."""

import functools
import string

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<image>")
"""Those of ``tiny_tokenizer``, with its ids, so that a tiny LMM can have any of these."""


@functools.cache
def llama_like() -> PreTrainedTokenizerFast:
    """Return one as Llama 2's: a "▁" before every text, and bytes of what is not in it."""
    pieces = [*SPECIAL_TOKENS, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"acdgost3漢", "▁c", "at", "▁cat", "▁d", "og", "▁dog"]
    merges = [("a", "t"), ("▁", "c"), ("▁c", "at"), ("▁", "d"), ("o", "g"), ("▁d", "og")]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges,
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrap(tokenizer, unk_token="<unk>")


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    """Return one as Llama 3's: of bytes, with a special token that ``all_special_ids`` lacks.

    And with added tokens that are text, one of them with letters that also stand for bytes.
    """
    tokenizer = _byte_level_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<reserved>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("für")])
    return _wrap(tokenizer)


@functools.cache
def composing() -> PreTrainedTokenizerFast:
    """Return one as Qwen3's: of bytes, of the composed text (NFC)."""
    tokenizer = _byte_level_tokenizer()
    tokenizer.normalizer = normalizers.NFC()
    return _wrap(tokenizer)


@functools.cache
def word_pieces() -> PreTrainedTokenizerFast:
    """Return one as BERT's, which decodes no space before a continued word or a comma."""
    pieces = ["[UNK]", *SPECIAL_TOKENS, "cat", "##s", "dog", ",", *string.ascii_lowercase]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _wrap(tokenizer, unk_token="[UNK]")


@functools.cache
def word_ends() -> PreTrainedTokenizerFast:
    """Return one as CLIP's, which marks the ends of words."""
    pieces = [*SPECIAL_TOKENS, *"catdogs", "cat</w>", "dog</w>", "s</w>"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    return _wrap(tokenizer)


def _byte_level_tokenizer() -> Tokenizer:
    letters = list(bytes_to_unicode().values())  # type: ignore[no-untyped-call]
    pieces = [*SPECIAL_TOKENS, *letters, "at", "Ġc", "Ġcat"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("a", "t"), ("Ġ", "c"), ("Ġc", "at")],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _wrap(tokenizer: Tokenizer, unk_token: str | None = None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
        **({} if unk_token is None else {"unk_token": unk_token}),
    )
