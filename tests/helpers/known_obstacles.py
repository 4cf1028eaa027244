"""Why types of LMMs that no small random model stands for yet are not read, where it is known."""

from collections.abc import Mapping

OBSTACLES: Mapping[str, str] = {
    "blip-2": "its processor puts image tokens before the text itself and replaces no placeholder",
    "chameleon": "image tokens are codes of a VQ model, in which no gradient tells their places",
    "dots3_note": "its layers have different numbers of heads (by its configuration, 128 and 64)",
    "emu3": "image tokens are codes of a VQ model, in which no gradient tells their places",
    "fast_vlm": "its vision tower needs timm, which needs torchvision; not tried with both",
    "florence2": "an encoder-decoder, whose encoder reads picture and question, from pixels alone",
    "fuyu": "patches go into the sequence without a vision tower (no get_image_features)",
    "gemma3n": "its vision tower needs timm, which needs torchvision; not tried with both",
    "hunyuan_vl": "it numbers pictures across a batch, so answers together differ from those alone",
    "instructblip": "its processor also tokenizes the question for its query encoder",
    "kosmos-2": "latent queries resample the picture, and it takes no features in place of pixels",
    "mistral4": "it is a text model: transformers' class takes no pictures",
    "pix2struct": "an encoder-decoder without image tokens, with position biases in its attention",
    "t5gemma2": "an encoder-decoder: attention to the picture is merged with that to the answer",
    "udop": "an encoder-decoder without image tokens, which needs words and their boxes",
    "vision-encoder-decoder": "an encoder-decoder without image tokens and without a chat",
}
