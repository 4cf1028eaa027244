"""The embedded LMM: a small CLIP-style ViT and a small Llama, trained on words alone.

It never sees a mask. First the vision tower learns which kinds are in a picture (a label a
picture), then the whole model learns captions and answers, from pictures with one sticker up to
all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import Turn
from flmm.stickers.questions import ask, every_text, say_all
from flmm.stickers.recipe.fit import Fit, run
from flmm.stickers.scene import Scene
from flmm.stickers.world import World

IMAGE, USER, ASSISTANT = "<image>", "<|user|>", "<|assistant|>"
BEGIN, END, PADDING = "<s>", "</s>", "<pad>"
SPECIAL = (PADDING, BEGIN, END, IMAGE, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{% else %}<|assistant|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PIXELS, PATCH = 96, 8
_MICRO = 8
# A caption is many words, an answer has one or two that count: with three answers a caption the LLM
# learned to name what is there long before it learned to look for what a question names.
_QUESTIONS = 8
LABELS = tuple(kind.name for kind in KINDS) + STUFF


def build_tokenizer(vocabulary: int = 900) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the world's words; any Unicode text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(every_text(), trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        extra_special_tokens={"image_token": IMAGE},
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def build_lmm(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model, about 3.5 M parameters."""
    vision = CLIPVisionConfig(
        hidden_size=160, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
        image_size=PIXELS, patch_size=PATCH, projection_dim=160,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=_token_id(tokenizer, IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(PIXELS // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def pixel_values(pictures: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> Tensor:
    """Square uint8 pictures as the image processor gives them, (B, 3, 96, 96) in -1..1."""
    small = [
        np.asarray(Image.fromarray(picture).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))
        for picture in pictures
    ]
    stacked = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
    return stacked.float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class Curriculum:
    """Scene numbers by how many things they hold: few at first, all kinds of scenes at the end."""

    world: World
    seed: int
    steps: int
    batch_size: int
    stages: tuple[tuple[float, int], ...]
    """(share of the steps, most things a scene), one after the other."""

    @cached_property
    def _by_count(self) -> dict[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        counts = np.array([len(self.world.scene(i).things) for i in range(self.world.count)])
        return {most: np.flatnonzero(counts <= most) for _, most in self.stages}

    def draw(self, step: int) -> tuple[list[int], np.random.Generator]:
        """The scene numbers of a step, and the step's own randomness."""
        random = np.random.default_rng((self.seed, step))
        most = next(most for until, most in self.stages if step < until * self.steps or until == 1)
        pool = self._by_count[most]
        return [int(i) for i in random.choice(pool, self.batch_size)], random


class KindClassifier(nn.Module):
    """The vision tower with a linear classifier on every patch, pooled over the best few."""

    def __init__(self, lmm: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.vision_tower = lmm.model.vision_tower
        self.classifier = nn.Linear(self.vision_tower.config.hidden_size, len(LABELS))
        nn.init.constant_(self.classifier.bias, -3.0)

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, h·w, width): the patches' states, as the projector sees them."""
        states: Tensor = self.vision_tower(pixels).last_hidden_state
        return states[:, 1:]

    def loss(self, patches: Tensor, labels: Tensor) -> Tensor:
        """BCE of the pooled logits against (B, labels) in 0 or 1."""
        logits = self.classifier(patches).topk(4, dim=1).values.mean(1)
        return 10 * functional.binary_cross_entropy_with_logits(logits, labels)


def labels_of(scenes: Sequence[Scene]) -> Tensor:
    """(B, labels): 1 for every kind of thing and stuff that a scene's caption names."""
    target = torch.zeros(len(scenes), len(LABELS))
    for row, scene in enumerate(scenes):
        for name in (*(k.name for k in scene.kinds), *(b.name for b in scene.bands)):
            target[row, LABELS.index(name)] = 1
    return target


def warm_up(classifier: KindClassifier, world: World, folder: Path, steps: int) -> None:
    """Teach the vision tower which kinds of thing and stuff are in a picture."""
    plan = Curriculum(world, 1, steps, 6 * _MICRO, ((0.15, 1), (0.35, 2), (0.6, 3), (1.0, 6)))

    def batches(step: int) -> list[tuple[Tensor, Tensor]]:
        indices, _ = plan.draw(step)
        pixels = pixel_values([world.picture(i) for i in indices])
        labels = labels_of([world.scene(i) for i in indices])
        return list(zip(torch.split(pixels, _MICRO), torch.split(labels, _MICRO), strict=True))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, labels = batch
        return classifier.loss(classifier.patches(pixels), labels)

    run(Fit("lmm-warm-up", classifier, steps, batches, loss), folder)


@dataclass(frozen=True)
class TextBatch:
    """Pictures, each followed by several independent turns that do not see one another."""

    pixels: Tensor
    ids: Tensor
    """(B, L)"""
    positions: Tensor
    mask: Tensor
    """(B, 1, L, L) bool: who may look at whom."""
    targets: Tensor
    """(B, L): the next token where it belongs to an answer, else -100."""
    labels: Tensor
    """(B, labels): which kinds the captions name."""


def pack(
    tokenizer: PreTrainedTokenizerFast,
    pixels: Tensor,
    turns: Sequence[Sequence[Turn]],
    labels: Tensor,
) -> TextBatch:
    """Lay each picture's turns after one copy of its image tokens."""
    image_tokens = (PIXELS // PATCH) ** 2
    begin, user, image, assistant, end, padding = (
        _token_id(tokenizer, token) for token in (BEGIN, USER, IMAGE, ASSISTANT, END, PADDING)
    )
    prefix = [begin, user] + [image] * image_tokens
    rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for texts in turns:
        ids, positions, branches, targets = (
            list(prefix), list(range(len(prefix))), [0] * len(prefix), [-100] * len(prefix),
        )  # fmt: skip
        for branch, turn in enumerate(texts, 1):
            question = [*tokenizer.encode(turn.question, add_special_tokens=False), assistant]
            answer = [*tokenizer.encode(turn.answer, add_special_tokens=False), end]
            ids += question + answer
            count = len(question) + len(answer)
            positions += range(len(prefix), len(prefix) + count)
            branches += [branch] * count
            targets += [-100] * (len(question) - 1) + answer + [-100]
        rows.append((ids, positions, branches, targets))
    longest = max(len(row[0]) for row in rows)

    def stack(column: int, fill: int) -> Tensor:
        return torch.tensor([row[column] + [fill] * (longest - len(row[column])) for row in rows])

    branch_of = stack(2, -1)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    same = branch_of[:, :, None] == branch_of[:, None, :]
    mask = causal & (same | (branch_of[:, None, :] == 0))
    return TextBatch(pixels, stack(0, padding), stack(1, 0), mask[:, None], stack(3, -100), labels)


def text_loss(lmm: LlavaForConditionalGeneration, batch: TextBatch, patches: Tensor) -> Tensor:
    """Mean cross entropy of the answers' tokens; `patches` are the vision tower's states."""
    model = lmm.model
    embeddings = model.language_model.embed_tokens(batch.ids)
    first = 2
    image = model.multi_modal_projector(patches)
    embeddings = torch.cat(
        [embeddings[:, :first], image, embeddings[:, first + image.shape[1] :]], dim=1
    )
    mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, torch.finfo().min)
    hidden = model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    wanted = batch.targets >= 0
    return functional.cross_entropy(lmm.lm_head(hidden[wanted]), batch.targets[wanted])


class Lesson(nn.Module):
    """The whole model, and beside it the warm-up's classifier, so that the tower forgets nothing.

    With the texts' loss alone, the vision tower unlearned the kinds before the LLM asked for them.
    """

    def __init__(self, lmm: LlavaForConditionalGeneration, classifier: KindClassifier) -> None:
        super().__init__()
        self.lmm = lmm
        self.classifier = classifier

    def loss(self, batch: TextBatch) -> Tensor:
        patches = self.classifier.patches(batch.pixels)
        kinds = self.classifier.loss(patches, batch.labels)
        return text_loss(self.lmm, batch, patches) + 0.3 * kinds


def train(
    lesson: Lesson, tokenizer: PreTrainedTokenizerFast, world: World, folder: Path, steps: int
) -> None:
    """Teach the whole model captions, lists and answers."""
    plan = Curriculum(world, 2, steps, 2 * _MICRO, ((0.14, 1), (0.22, 2), (0.33, 3), (1.0, 6)))

    def batches(step: int) -> list[TextBatch]:
        indices, random = plan.draw(step)
        return [pack_scenes(indices[i : i + _MICRO], random) for i in (0, _MICRO)]

    def pack_scenes(indices: list[int], random: np.random.Generator) -> TextBatch:
        scenes = [world.scene(index) for index in indices]
        turns = [[say_all(s, random), *(ask(s, random) for _ in range(_QUESTIONS))] for s in scenes]
        pixels = pixel_values([world.picture(i) for i in indices])
        return pack(tokenizer, pixels, turns, labels_of(scenes))

    run(Fit("lmm", lesson, steps, batches, lesson.loss, learning_rate=1.5e-3), folder)
