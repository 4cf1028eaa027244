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

from flmm.attention.spans import make_phrase_span
from flmm.data.features import FeatureExtractor
from flmm.head.model import GroundingHead
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.report.calibration import calibrate_thresholds
from flmm.report.context import ReportContext
from flmm.report.extraction import ExtractedPicture
from flmm.report.thresholds import MapThresholds, comparison_size, normalise_by_max


class MapSource(StrEnum):
    """A way to make maps of a phrase."""

    ATTENTION = "LMM attention"
    MAX_ATTENTION = "LMM attention, merged by max"
    SIMILARITY = "hidden-state similarity"
    """Cosine of the phrase's tokens and the image tokens after each layer (and before the first),
    each map scaled to 0..1."""
    VISION_TOWER = "vision tower's attention"
    """It knows no words: a row of each of its layers and heads, that of the one patch which is most
    similar to the phrase after the layer that the calibration pictures choose."""


class MapSources:
    """Makes every source's maps of a picture's phrases, (P, C, h, w), not negative."""

    def __init__(self, context: ReportContext) -> None:
        self._bench = context
        self._adapter = context.grounder.adapter
        config = replace(
            context.picture_extractor.feature_extractor.head.config, merge="max", refine=False
        )
        self._max_extractor = FeatureExtractor(
            self._adapter, GroundingHead(config, context.grounder.head.refiner.sam)
        )
        self._best_layers: dict[str, int] | None = None
        self._cached_picture: ExtractedPicture | None = None
        self._cached_maps: dict[MapSource, Tensor] = {}

    @property
    def available(self) -> tuple[MapSource, ...]:
        """Those that this LMM offers."""
        return tuple(
            one
            for one in MapSource
            if one is not MapSource.VISION_TOWER or self._vision_tower is not None
        )

    def get_maps(self, source: MapSource, extracted: ExtractedPicture) -> Tensor:
        """A picture's, on the CPU; those of the last picture are remembered."""
        if self._cached_picture is not extracted:
            self._cached_picture, self._cached_maps = extracted, {}
        if source not in self._cached_maps:
            self._cached_maps[source] = self._compute_maps(source, extracted)
        return self._cached_maps[source]

    def _compute_maps(self, source: MapSource, extracted: ExtractedPicture) -> Tensor:
        if source is MapSource.ATTENTION:
            return extracted.attention
        if source is MapSource.MAX_ATTENTION:
            (features,) = self._max_extractor.extract([extracted.picture_exchanges])
            return torch.stack([one.attention for one in features.phrases]).cpu().float()
        if source is MapSource.SIMILARITY:
            return self._compute_similarity(extracted)
        return self._vision_tower_maps(extracted, self.get_maps(MapSource.SIMILARITY, extracted))

    def find_thresholds(self, source: MapSource) -> dict[str, MapThresholds]:
        """The best level of each of a source's maps."""

        def candidates(extracted: ExtractedPicture, phrase: int) -> Tensor:
            geometry = extracted.features.geometry
            maps = self.get_maps(source, extracted)[phrase]
            return normalise_by_max(
                resize_maps_to_picture(maps, geometry, comparison_size(geometry.picture))
            )

        return calibrate_thresholds(self._bench, source.value, candidates)

    def predict_best_masks(self, source: MapSource, extracted: ExtractedPicture) -> Tensor:
        """(P, H, W) bool: each phrase's, from the source's best map."""
        geometry = extracted.features.geometry
        levels = self.find_thresholds(source)
        found = []
        for maps, kind in zip(self.get_maps(source, extracted), extracted.kinds, strict=True):
            best = levels[kind].best_index(range(len(maps)))
            one = resize_maps_to_picture(maps[best : best + 1], geometry, geometry.picture)
            found.append(normalise_by_max(one)[0] > levels[kind].thresholds[best])
        return torch.stack(found)

    @torch.no_grad()
    def _compute_similarity(self, extracted: ExtractedPicture) -> Tensor:
        adapter = self._adapter
        found = []
        for exchange in extracted.picture_exchanges.exchanges:
            prompt = adapter.build_prompt(
                extracted.picture_exchanges.picture, exchange.question, exchange.answer
            )
            output = adapter.model.base_model(
                **adapter.collate([prompt]).model_inputs, use_cache=False, output_hidden_states=True
            )
            states = torch.stack([layer[0] for layer in output.hidden_states]).float().cpu()
            image = states[:, prompt.picture_views[0][-1].token_positions]
            for tokens in _phrase_positions(prompt, exchange.spans):
                found.append(similarity_maps(states[:, list(tokens)], image))
        return torch.stack(found)

    def _vision_tower_maps(self, extracted: ExtractedPicture, similar: Tensor) -> Tensor:
        if self._best_layers is None:
            levels = self.find_thresholds(MapSource.SIMILARITY)
            self._best_layers = {
                kind: one.best_index(range(len(one.thresholds))) for kind, one in levels.items()
            }
        rows = self._patch_attention(extracted)
        height, width = similar.shape[2:]
        found = []
        for maps, kind in zip(similar, extracted.kinds, strict=True):
            patch = int(maps[self._best_layers[kind]].flatten().argmax())
            found.append(rows[:, patch].reshape(-1, height, width))
        return torch.stack(found)

    @property
    def _vision_tower(self) -> PreTrainedModel | None:
        """The vision tower of a LLaVA, whose patches are the image tokens."""
        if not isinstance(self._adapter, LlavaAdapter) or self._adapter.views != 1:
            return None
        tower = self._adapter.model.base_model.vision_tower
        assert isinstance(tower, PreTrainedModel)
        return tower

    @torch.no_grad()
    def _patch_attention(self, extracted: ExtractedPicture) -> Tensor:
        """(V·U, h·w, h·w): each patch's attention to all patches, without the class token."""
        tower = self._vision_tower
        assert tower is not None
        exchange = extracted.picture_exchanges.exchanges[0]
        prompt = self._adapter.build_prompt(extracted.picture_exchanges.picture, exchange.question)
        pixels = prompt.inputs["pixel_values"].to(self._adapter.device, self._adapter.dtype)
        before = cast(str, tower.config._attn_implementation)
        # Only the plain arithmetic gives its matrix away.
        tower.set_attn_implementation("eager")
        try:
            layers: tuple[Tensor, ...] = tower(pixels, output_attentions=True).attentions
        finally:
            tower.set_attn_implementation(before)
        first = layers[0].shape[-1] - prompt.picture_views[0][-1].token_positions.numel()
        return torch.cat([layer[0, :, first:, first:] for layer in layers]).float().cpu()


def similarity_maps(phrase_states: Tensor, image_states: Tensor) -> Tensor:
    """Where in the picture hidden states are like those of a phrase.

    Args:
        phrase: (M, T, D).
        image: (M, h, w, D).

    Returns:
        (M, h, w) in 0..1: the mean cosine over the phrase's tokens, each layer's from its least (0)
        to its most (1).
    """
    words = functional.normalize(phrase_states, dim=-1)
    places = functional.normalize(image_states, dim=-1)
    cosine = torch.einsum("mtd,mhwd->mhw", words, places) / phrase_states.shape[1]
    least, most = (edge(cosine.flatten(1), 1)[:, None, None] for edge in (torch.amin, torch.amax))
    return (cosine - least) / (most - least).clamp_min(1e-12)


def _phrase_positions(
    prompt: Prompt, spans: tuple[tuple[int, int], ...]
) -> Iterator[tuple[int, ...]]:
    """Where in the sequence each phrase's tokens are."""
    text, start, offsets = prompt.answer, prompt.answer_start, prompt.answer_offsets
    if text is None or offsets is None:
        text, start, offsets = prompt.question, prompt.question_start, prompt.question_offsets
    for begin, end in spans:
        yield tuple(start + token for token in make_phrase_span(text, begin, end, offsets).tokens)
