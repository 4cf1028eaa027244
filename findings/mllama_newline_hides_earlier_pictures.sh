#!/usr/bin/env bash
# transformers 5.24.0: a newline between Llama 3.2 Vision's (mllama) image tokens hides the earlier.
#
# Guess before looking: text attends to every picture before it, so that it can compare them; white
# space between two <|image|> is one token more and changes nothing else.
# Seen: MllamaProcessor's cross_attention_mask shows a picture from its token on up to the next image
# token, unless that follows directly. Of pictures on lines of their own, or each with its name after
# it, the question is shown the last one alone; nothing warns.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 pillow==12.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import MllamaImageProcessorPil, MllamaProcessor, PreTrainedTokenizerFast

assert transformers.__version__ == "5.24.0", transformers.__version__

WORDS = ["<unk>", "<s>", "<|image|>", "\n", "first", "second", "Compare", "them"]
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" +"), "removed")
processor = MllamaProcessor(
    MllamaImageProcessorPil(size={"height": 16, "width": 16}),
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", pad_token="<unk>",
        extra_special_tokens={"image_token": "<|image|>"},
    ),
)


def shown(text: str) -> list[bool]:
    """Whether the last token is shown the first and the second picture."""
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    inputs = processor(text=text, images=[pictures])
    assert WORDS.index("<unk>") not in inputs["input_ids"][0]
    return [bool(tiles.any()) for tiles in inputs["cross_attention_mask"][0][-1]]


seen = {
    text: shown(text)
    for text in (
        "<|image|><|image|> Compare them",
        "<|image|> \n <|image|> Compare them",
        "<|image|> first <|image|> second \n Compare them",
    )
}
for text, pictures in seen.items():
    print(f"{text!r}: {pictures}")
assert list(seen.values()) == [[True, True], [False, True], [False, True]]
PYTHON
