"""What a tokenizer.json alone says about the text of tokens: slow, and independent of flmm."""

import codecs
import json
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

Spans = list[tuple[int, int]]

_SHIFTED = [byte for byte in range(256) if byte < 33 or 126 < byte < 161 or byte == 173]
BYTE_LEVEL_LETTERS = "".join(
    chr(256 + _SHIFTED.index(byte) if byte in _SHIFTED else byte) for byte in range(256)
)
"""The letter of each byte in the tokens of a byte-level tokenizer (GPT-2's)."""


class Reference:
    """The bytes of each token of a tokenizer.json.

    ``special_ids``: what is left out of texts, which is not only what the file says.
    """

    def __init__(self, file: Path, special_ids: Collection[int]) -> None:
        self._settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        self.is_byte_level = self._settings["decoder"]["type"] == "ByteLevel"
        self.special_ids = special_ids
        self._pieces = {i: piece for piece, i in self._settings["model"]["vocab"].items()}
        self._pieces |= {token["id"]: token["content"] for token in self._settings["added_tokens"]}

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """The token of each byte."""
        return {
            content[0]: token_id
            for token_id in self._pieces
            if len(content := self.content(token_id)) == 1 and self._is_byte(token_id)
        }

    def content(self, token_id: int) -> bytes:
        """Return the token's own bytes; none of a special token."""
        if token_id in self.special_ids:
            return b""
        piece = self._pieces[token_id]
        if not self.is_byte_level and self._is_byte(token_id):
            return bytes([int(piece[3:5], 16)])
        if not self.is_byte_level:
            return piece.replace("▁", " ").encode()
        if any(letter not in BYTE_LEVEL_LETTERS for letter in piece):
            return piece.encode()
        return bytes(BYTE_LEVEL_LETTERS.index(letter) for letter in piece)

    def _is_byte(self, token_id: int) -> bool:
        piece = self._pieces[token_id]
        return self.is_byte_level or (len(piece) == 6 and piece[:3] == "<0x" and piece[-1] == ">")

    def decode(self, token_ids: Sequence[int]) -> tuple[str, Spans]:
        """Return the stripped text, and each token's characters in it; empty spans lie anywhere."""
        letters: list[str] = []
        owners: list[list[int]] = [[] for _ in token_ids]
        run: list[tuple[int, int]] = []  # (token, byte)
        for index, token_id in enumerate(token_ids):
            content = self.content(token_id)
            if not self.is_byte_level and content and not self._is_byte(token_id):
                self._decode_run(run, letters, owners)
                run = []
                owners[index] = [len(letters) + i for i in range(len(content.decode()))]
                letters += content.decode()
            else:
                run += [(index, byte) for byte in content]
        self._decode_run(run, letters, owners)
        whole = "".join(letters)
        before, end = len(whole) - len(whole.lstrip()), len(whole.strip())
        spans = [(own[0] - before, own[-1] + 1 - before) if own else (0, 0) for own in owners]
        return whole.strip(), [(min(max(i, 0), end), min(max(j, 0), end)) for i, j in spans]

    def _decode_run(
        self, run: Sequence[tuple[int, int]], letters: list[str], owners: list[list[int]]
    ) -> None:
        """Append the letters of a run of bytes, and each to its tokens."""
        content = bytes(byte for _, byte in run)
        if not self.is_byte_level and content.decode("utf-8", "replace").encode() != content:
            for token, _ in run:
                owners[token].append(len(letters))
                letters.append("\ufffd")
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pending: list[int] = []
        for position, (token, byte) in enumerate(run):
            text = decoder.decode(bytes([byte]), final=position == len(run) - 1)
            pending.append(token)
            while text:
                # A replacement character of what came before leaves this byte to the next one.
                is_broken = text[0] == "\ufffd" and len(pending) > 1
                is_itself = bytes(b for _, b in run[position + 1 - len(pending) : position + 1])
                part = pending
                if is_broken and is_itself != b"\xef\xbf\xbd" and (
                    len(text) > 1 or decoder.getstate()[0]
                ):  # fmt: skip
                    part = pending[:-1]
                for owner in part:
                    if len(letters) not in owners[owner]:
                        owners[owner].append(len(letters))
                pending = pending[len(part) :]
                letters.append(text[0])
                text = text[1:]
