"""What stands for a picture in a chat, and what the model's own processor writes in its place."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.lmm.run_image_processor import run_image_processor
from flmm.lru_cache import LRUCache
from flmm.types import Size

# What processors raise if a file or a setting is missing.
PROCESSOR_ERRORS = (OSError, ValueError, ImportError, AttributeError, TypeError, KeyError)
_SMALL_PICTURE = (64, 80)


@dataclass(frozen=True)
class SecondPicture:
    """What differs between a conversation of two pictures and one of one."""

    is_numbered: bool
    """Whether its text differs from that of the first picture, of the same size."""
    packed_input_names: tuple[str, ...]
    """Inputs in which it comes after the first on the last axis."""


class PictureWriter:
    """A model's own processor: it writes the image tokens of pictures into a text.

    Args:
        processor: of one or several pictures and a text.
        tokenizer: the processor's.
        image_token: whose embeddings are replaced by image features.

    Raises:
        OSError, ValueError, ImportError, AttributeError, TypeError, KeyError: the processor cannot
            be used, or no text is known that it replaces by image tokens.
    """

    def __init__(
        self, processor: ProcessorMixin, tokenizer: PreTrainedTokenizerBase, image_token: str
    ) -> None:
        self._processor = processor
        self._tokenizer = tokenizer
        self._texts: LRUCache[str] = LRUCache(1024)
        self.placeholder = self._find_placeholder(image_token)
        """The text that is replaced, once for each picture."""

    def run(self, pictures: list[Image.Image], text: str, **options: bool) -> Mapping[str, Tensor]:
        """Run the processor.

        Raises:
            InputError: it refuses a picture.
        """

        def process(images: object, **options: object) -> Mapping[str, Tensor]:
            call = cast(Callable[..., Mapping[str, Tensor]], self._processor)
            return call(images=images, text=[text], **options)

        return run_image_processor(process, pictures, **options)

    def run_alone(self, pictures: list[Image.Image]) -> Mapping[str, Tensor]:
        """Run the processor on the pictures' placeholders and no other text."""
        return self.run(
            pictures,
            self.placeholder * len(pictures),
            add_special_tokens=False,
            return_text_replacement_offsets=True,
        )

    def read_texts(self, processed: Mapping[str, object]) -> list[str]:
        """Return what was written in the place of each picture, from the output of ``run_alone``.

        Some processors do not tell: then it is what all pictures have become together.
        """
        replacements = cast(
            Sequence[Sequence[Mapping[str, str]]] | None, processed.get("text_replacement_offsets")
        )
        if replacements and replacements[0]:
            return [replacement["replacement"] for replacement in replacements[0]]
        (token_ids,) = cast(Tensor, processed["input_ids"])
        text = self._tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return [text]

    def number(self, text: str, picture: Size, index: int) -> str:
        """Return the text of a conversation's picture, from that of one alone of the same size.

        Args:
            text: of the picture alone.
            picture: its size.
            index: how many pictures come before.
        """
        if index == 0 or not self.second_picture.is_numbered:
            return text

        def write() -> str:
            earlier = [Image.new("RGB", _SMALL_PICTURE[::-1])] * index
            shown = [*earlier, Image.new("RGB", picture[::-1])]
            return self.read_texts(self.run_alone(shown))[index]

        return self._texts.get_or_create(repr((picture, index)).encode(), write)

    @cached_property
    def second_picture(self) -> SecondPicture:
        """What a second picture changes; found out when there is one."""
        picture = Image.new("RGB", _SMALL_PICTURE[::-1])
        try:
            one, two = (self.run_alone([picture] * count) for count in (1, 2))
        except PROCESSOR_ERRORS:
            # It takes one picture only.
            return SecondPicture(False, ())
        packed = tuple(
            name
            for name, value in one.items()
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and value.ndim > 1
            and two[name].shape == (*value.shape[:-1], 2 * value.shape[-1])
        )
        return SecondPicture(len(set(self.read_texts(two))) == 2, packed)

    def find_prefix(self, written: Tensor, encoded: Tensor) -> str:
        """Return the text of the tokens that the processor puts before a text; often none.

        Args:
            written: (1, L) tokens that the processor has made of a text.
            encoded: (1, L') tokens of the same text without the processor.
        """
        added = written.shape[1] - encoded.shape[1]
        if added <= 0 or not written[:, added:].equal(encoded):
            return ""
        return str(self._tokenizer.decode(written[0, :added], clean_up_tokenization_spaces=False))

    def _find_placeholder(self, image_token: str) -> str:
        picture = Image.new("RGB", _SMALL_PICTURE[::-1])
        image_token_id = self._tokenizer.convert_tokens_to_ids(image_token)
        assert isinstance(image_token_id, int)
        error: Exception = ValueError("it names no token for pictures")
        taken: list[str] = []
        for text in self._list_placeholders(image_token):
            try:
                token_ids = self.run([picture], text)["input_ids"]
            except PROCESSOR_ERRORS as found:
                error = found
                continue
            taken.append(text)
            if token_ids.eq(image_token_id).sum() > 1:
                return text
        if not taken:
            raise error
        return taken[0]

    def _list_placeholders(self, image_token: str) -> list[str]:
        """Return the texts that may stand for a picture, likeliest first.

        Processors name theirs ``image_token``, but some replace another token of theirs, and some
        none at all: then the chat template writes all image tokens.
        """
        tokens = {
            name: token
            for name, token in vars(self._processor).items()
            if name.endswith("_token") and isinstance(token, str) and token
        }
        names = sorted(tokens, key=lambda name: (name != "image_token", "image" not in name))
        texts = [tokens[name] for name in names]
        return list(dict.fromkeys([*texts, *self._find_template_runs(image_token)]))

    def _find_template_runs(self, image_token: str) -> Iterator[str]:
        """Yield the image tokens that the chat template writes for a picture, if it writes some."""
        if self._tokenizer.chat_template is None:
            return
        content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        # transformers' type hints allow only strings.
        message = cast(dict[str, str], {"role": "user", "content": content})
        try:
            text = self._tokenizer.apply_chat_template([message], tokenize=False)
        except (TemplateError, TypeError):
            return  # A text-only LLM's template takes plain strings as content.
        yield from re.findall(f"(?:{re.escape(image_token)})+", str(text))
