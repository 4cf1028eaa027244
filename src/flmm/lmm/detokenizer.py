"""The text of an answer's tokens while they are generated, and the characters of each token.

``tokenizer.decode`` of an answer's first tokens is not always how the whole answer begins: the
bytes of a character may be spread over several tokens, and a tokenizer with byte fallback (Llama 2,
Gemma) decodes a run of byte tokens as a whole, to replacement characters unless all are complete.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.lmm.prompt import Offsets

_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""A token of SentencePiece's byte fallback."""
_BYTE_LEVEL_ALPHABET = {
    character: byte
    for byte, character in bytes_to_unicode().items()  # type: ignore[no-untyped-call]
}
"""The bytes that the characters of a byte-level tokenizer's tokens stand for."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class _Characters:
    """Bytes as text."""

    text: str
    byte_counts: tuple[int, ...]
    """The number of bytes of each character."""
    num_open: int
    """The number of last characters that more bytes may change."""


class Detokenizer:
    """The text of the tokens of an answer, which are added one after the other.

    Equal to ``FrozenModel.decode`` of the same tokens: without special tokens and outer white
    space.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        self._tokenizer = tokenizer
        self._special_ids = {
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        decoder = tokenizer.backend_tokenizer.decoder
        self._is_byte_level = decoder is not None and decoder.decode(["Ġ"]) == " "
        self._has_byte_fallback = decoder is not None and decoder.decode(["<0x41>"]) == "A"
        self._text = ""
        """Of all tokens before the run of bytes."""
        self._spans: list[tuple[int, int]] = []
        """In ``_text``."""
        self._run: list[bytes] = []
        """The bytes of each of the last tokens, whose characters may still change."""
        self._previous: int | None = None
        """The last token that is not special."""

    def add(self, token_id: int) -> None:
        """Add the next token."""
        content = self._read(token_id)
        if isinstance(content, bytes):
            self._run.append(content)
            if self._is_byte_level and not self._characters().num_open:
                self._end_run()
            return
        self._end_run()
        self._text += content
        self._spans.append((len(self._text) - len(content), len(self._text)))

    def extend(self, token_ids: Iterable[int]) -> None:
        """Add the next tokens."""
        for token_id in token_ids:
            self.add(token_id)

    @property
    def text(self) -> str:
        """The answer's text, if it ends here."""
        return (self._text + self._characters().text).strip()

    @property
    def stable_text(self) -> str:
        """The beginning of the answer's text that no later token changes."""
        characters = self._characters()
        num_stable = len(characters.text) - characters.num_open
        return (self._text + characters.text[:num_stable]).strip()

    @property
    def offsets(self) -> Offsets:
        """The (start, end) of each token in ``text``.

        A character of several tokens belongs to each of them. A token that adds no character of its
        own has an empty span: a special token, or the white space that the tokenizer puts before a
        text.
        """
        return self.offsets_from(0)

    def offsets_from(self, first: int) -> Offsets:
        """Return ``offsets`` of token ``first`` and those after it."""
        whole = self._text + self._characters().text
        before = len(whole) - len(whole.lstrip())
        end = len(whole.strip())
        spans = self._spans[first:] + self._run_spans()[max(first - len(self._spans), 0) :]
        return tuple(
            (min(max(start - before, 0), end), min(max(stop - before, 0), end))
            for start, stop in spans
        )

    def _read(self, token_id: int) -> bytes | str:
        """Return a token's bytes, or its text if it is not bytes; special tokens have no bytes."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if token_id in self._special_ids or not isinstance(piece, str):
            return b""
        if self._is_byte_level:
            return _encode_byte_level(piece)
        # Decoders treat the first token of a text differently.
        before = [] if self._previous is None else [self._previous]
        self._previous = token_id
        byte = _BYTE_TOKEN.fullmatch(piece) if self._has_byte_fallback else None
        if byte is not None:
            return bytes.fromhex(byte[1])
        return self._decode([*before, token_id]).removeprefix(self._decode(before))

    def _decode(self, token_ids: list[int]) -> str:
        text = self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _characters(self) -> _Characters:
        """Return the run's text, if the answer ends here."""
        content = b"".join(self._run)
        characters = _decode_utf8(content)
        if self._is_byte_level:
            return characters
        num_bytes = len(content)
        if characters.text.encode() == content:
            return replace(characters, num_open=len(characters.text))
        complete = characters.text[: len(characters.text) - characters.num_open]
        is_broken = not content.startswith(complete.encode())
        return _Characters(_REPLACEMENT * num_bytes, (1,) * num_bytes, num_bytes * (not is_broken))

    def _run_spans(self) -> list[tuple[int, int]]:
        """Return the spans of the run's tokens."""
        byte_counts = self._characters().byte_counts
        first = len(self._text)
        owners = [first + index for index, count in enumerate(byte_counts) for _ in range(count)]
        owners.append(first + len(byte_counts))
        spans = []
        start = 0
        for content in self._run:
            end = start + len(content)
            last = owners[end - 1] + 1 if content else owners[start]
            spans.append((owners[start], last))
            start = end
        return spans

    def _end_run(self) -> None:
        self._spans += self._run_spans()
        self._text += self._characters().text
        self._run = []


def _decode_utf8(content: bytes) -> _Characters:
    """Decode UTF-8, with a replacement character for each sequence that is none."""
    text = ""
    byte_counts: list[int] = []
    num_open = 0
    while content:
        try:
            part, size, bad_size = content.decode(), len(content), 0
        except UnicodeDecodeError as error:
            size, bad_size = error.start, error.end - error.start
            part = content[:size].decode()
            num_open = int(error.reason == "unexpected end of data")
        text += part + _REPLACEMENT * bool(bad_size)
        byte_counts += [len(character.encode()) for character in part]
        byte_counts += [bad_size] * bool(bad_size)
        content = content[size + bad_size :]
    return _Characters(text, tuple(byte_counts), num_open)


def _encode_byte_level(piece: str) -> bytes:
    """Return the bytes of a token of a byte-level tokenizer."""
    if all(character in _BYTE_LEVEL_ALPHABET for character in piece):
        return bytes(_BYTE_LEVEL_ALPHABET[character] for character in piece)
    # A token that was added to the vocabulary as it is written.
    return piece.encode()
