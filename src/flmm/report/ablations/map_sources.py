"""What a mask could be read from: the LMM's attention, its hidden states, its vision tower.

Letters: ``P`` phrases, ``C`` maps of a source, ``M`` layers, ``T`` tokens of a phrase, ``h w``
image-token grid, ``D`` width, ``V U`` layers and heads of the vision tower.
"""

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel

from flmm.attention.spans import span_at
from flmm.data.features import FeatureExtractor
from flmm.head.model import GroundingHead
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import maps_on_picture
from flmm.report.calibration import calibrate
from flmm.report.context import Bench
from flmm.report.extraction import SeenPicture
from flmm.report.thresholds import ChosenLevels, frame_of, peaked


class Source(StrEnum):
    """A way to make maps of a phrase."""

    ATTENTION = "LMM attention"
    MOST_ATTENTION = "LMM attention, merged by max"
    SIMILARITY = "hidden-state similarity"
    """Cosine of the phrase's tokens and the image tokens after each layer (and before the first),
    each map scaled to 0..1."""
    VISION = "vision tower's attention"
    """It knows no words: a row of each of its layers and heads, that of the one patch which is most
    similar to the phrase after the layer that the calibration pictures choose."""


class Sources:
    """Makes every source's maps of a picture's phrases, (P, C, h, w), not negative."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._adapter = bench.grounder.adapter
        config = replace(bench.eye.extractor.head.config, merge="max", refine=False)
        self._by_max = FeatureExtractor(
            self._adapter, GroundingHead(config, bench.grounder.head.refiner.sam)
        )
        self._layer: dict[str, int] | None = None
        self._last: SeenPicture | None = None
        self._made: dict[Source, Tensor] = {}

    @property
    def all(self) -> tuple[Source, ...]:
        """Those that this LMM offers."""
        return tuple(one for one in Source if one is not Source.VISION or self._tower is not None)

    def maps(self, source: Source, seen: SeenPicture) -> Tensor:
        """A picture's, on the CPU; those of the last picture are remembered."""
        if self._last is not seen:
            self._last, self._made = seen, {}
        if source not in self._made:
            self._made[source] = self._make(source, seen)
        return self._made[source]

    def _make(self, source: Source, seen: SeenPicture) -> Tensor:
        if source is Source.ATTENTION:
            return seen.attention
        if source is Source.MOST_ATTENTION:
            (features,) = self._by_max.extract([seen.asked])
            return torch.stack([one.attention for one in features.phrases]).cpu().float()
        if source is Source.SIMILARITY:
            return self._similarity(seen)
        return self._from_patches(seen, self.maps(Source.SIMILARITY, seen))

    def levels(self, source: Source) -> dict[str, ChosenLevels]:
        """The best level of each of a source's maps."""

        def candidates(seen: SeenPicture, phrase: int) -> Tensor:
            geometry = seen.features.geometry
            maps = self.maps(source, seen)[phrase]
            return peaked(maps_on_picture(maps, geometry, frame_of(geometry.picture)))

        return calibrate(self._bench, source.value, candidates)

    def best_masks(self, source: Source, seen: SeenPicture) -> Tensor:
        """(P, H, W) bool: each phrase's, from the source's best map."""
        geometry = seen.features.geometry
        levels = self.levels(source)
        found = []
        for maps, kind in zip(self.maps(source, seen), seen.kinds, strict=True):
            best = levels[kind].best(range(len(maps)))
            one = maps_on_picture(maps[best : best + 1], geometry, geometry.picture)
            found.append(peaked(one)[0] > levels[kind].level[best])
        return torch.stack(found)

    @torch.no_grad()
    def _similarity(self, seen: SeenPicture) -> Tensor:
        adapter = self._adapter
        found = []
        for exchange in seen.asked.exchanges:
            prompt = adapter.prepare(seen.asked.picture, exchange.question, exchange.answer)
            output = adapter.model.base_model(
                **adapter.collate([prompt]).model_inputs, use_cache=False, output_hidden_states=True
            )
            states = torch.stack([layer[0] for layer in output.hidden_states]).float().cpu()
            image = states[:, prompt.pictures[0][-1].columns]
            for tokens in _positions(prompt, exchange.spans):
                found.append(similarity(states[:, list(tokens)], image))
        return torch.stack(found)

    def _from_patches(self, seen: SeenPicture, similar: Tensor) -> Tensor:
        if self._layer is None:
            levels = self.levels(Source.SIMILARITY)
            self._layer = {kind: one.best(range(len(one.level))) for kind, one in levels.items()}
        rows = self._patch_attention(seen)
        height, width = similar.shape[2:]
        found = []
        for maps, kind in zip(similar, seen.kinds, strict=True):
            patch = int(maps[self._layer[kind]].flatten().argmax())
            found.append(rows[:, patch].reshape(-1, height, width))
        return torch.stack(found)

    @property
    def _tower(self) -> PreTrainedModel | None:
        """The vision tower of a LLaVA, whose patches are the image tokens."""
        if not isinstance(self._adapter, LlavaAdapter) or self._adapter.views != 1:
            return None
        tower = self._adapter.model.base_model.vision_tower
        assert isinstance(tower, PreTrainedModel)
        return tower

    @torch.no_grad()
    def _patch_attention(self, seen: SeenPicture) -> Tensor:
        """(V·U, h·w, h·w): each patch's attention to all patches, without the class token."""
        tower = self._tower
        assert tower is not None
        exchange = seen.asked.exchanges[0]
        prompt = self._adapter.prepare(seen.asked.picture, exchange.question)
        pixels = prompt.inputs["pixel_values"].to(self._adapter.device, self._adapter.dtype)
        before = cast(str, tower.config._attn_implementation)
        # Only the plain arithmetic gives its matrix away.
        tower.set_attn_implementation("eager")
        try:
            layers: tuple[Tensor, ...] = tower(pixels, output_attentions=True).attentions
        finally:
            tower.set_attn_implementation(before)
        first = layers[0].shape[-1] - prompt.pictures[0][-1].columns.numel()
        return torch.cat([layer[0, :, first:, first:] for layer in layers]).float().cpu()


def similarity(phrase: Tensor, image: Tensor) -> Tensor:
    """Where in the picture hidden states are like those of a phrase.

    Args:
        phrase: (M, T, D).
        image: (M, h, w, D).

    Returns:
        (M, h, w) in 0..1: the mean cosine over the phrase's tokens, each layer's from its least (0)
        to its most (1).
    """
    words = functional.normalize(phrase, dim=-1)
    places = functional.normalize(image, dim=-1)
    cosine = torch.einsum("mtd,mhwd->mhw", words, places) / phrase.shape[1]
    least, most = (edge(cosine.flatten(1), 1)[:, None, None] for edge in (torch.amin, torch.amax))
    return (cosine - least) / (most - least).clamp_min(1e-12)


def _positions(prompt: Prompt, spans: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, ...]]:
    """Where in the sequence each phrase's tokens are."""
    text, start, offsets = prompt.answer, prompt.answer_start, prompt.answer_offsets
    if text is None or offsets is None:
        text, start, offsets = prompt.question, prompt.question_start, prompt.question_offsets
    for begin, end in spans:
        yield tuple(start + token for token in span_at(text, begin, end, offsets).tokens)
