#!/usr/bin/env bash
# tokenizers 0.23.3: with the normalizer NFC (Qwen's), some letters of a text are in no token's offsets.
#
# Guess before looking: offsets are "in the original text", so the tokens of a composed character
# cover all code points it was composed of, and the offsets of a text without added tokens cover it.
# Seen: they cover the first code point alone. The accent of a decomposed "é", as file names of macOS
# have it, and two of the three letters of a decomposed Korean syllable are in no token; the next
# token begins after them. A span of a text that ends in such a letter, matched with tokens by equal
# ends, has no last token. (NFKC does the same, with any model.)
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(
    models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[])
)
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()


def find_uncovered(text):
    offsets = tokenizer.encode(text).offsets
    return [i for i in range(len(text)) if not any(start <= i < end for start, end in offsets)]


TEXTS = {"x \u00e9t\u00e9": [], "x e\u0301t": [3], "\u1112\u1161\u11ab x": [1, 2]}
for text, uncovered in TEXTS.items():
    assert find_uncovered(text) == []
    tokenizer.normalizer = normalizers.NFC()
    print(f"{ascii(text)}: {tokenizer.encode(text).offsets}, in no token: {find_uncovered(text)}")
    assert find_uncovered(text) == uncovered
    tokenizer.normalizer = None
PYTHON
