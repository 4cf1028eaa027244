"""Sources of maps for masks: the LMM's attention, its hidden states, its vision tower.

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
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.report.calibration import calibrate_thresholds
from flmm.report.context import ReportContext
from flmm.report.extraction import ExtractedPicture
from flmm.report.thresholds import MapThresholds, comparison_size, normalise_by_max


class MapSource(StrEnum):
    """What a phrase's maps are computed from."""

    ATTENTION = "LMM attention"
    MAX_ATTENTION = "LMM attention, merged by max"
    SIMILARITY = "hidden-state similarity"
    """Cosine of the phrase's tokens and the image tokens after each layer (and before the first),
    each map scaled to 0..1."""
    VISION_TOWER = "vision tower's attention"
    """One patch's attention, by layer and head, as the tower knows no text: the patch most similar
    to the phrase in the hidden states of the layer that the calibration pictures choose."""


class MapSources:
    """Computes every source's maps of a picture's phrases, (P, C, h, w), not negative."""

    def __init__(self, context: ReportContext) -> None:
        self._context = context
        self._adapter = context.grounder.adapter
        config = replace(
            context.picture_extractor.feature_extractor.config, merge="max", refine=False
        )
        self._max_extractor = FeatureExtractor(self._adapter, config, None)
        self._best_layers: dict[str, int] | None = None
        self._cached_picture: ExtractedPicture | None = None
        self._cached_maps: dict[MapSource, Tensor] = {}

    @property
    def available(self) -> tuple[MapSource, ...]:
        """The sources that this LMM has."""
        missing = set()
        if not self._adapter.image_tokens_in_sequence:
            missing.add(MapSource.SIMILARITY)
        if self._vision_tower is None:
            missing.add(MapSource.VISION_TOWER)
        return tuple(source for source in MapSource if source not in missing)

    def get_maps(self, source: MapSource, extracted: ExtractedPicture) -> Tensor:
        """Return a picture's maps, on the CPU; those of the last picture are cached."""
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
            return torch.stack([phrase.attention for phrase in features.phrases]).cpu().float()
        if source is MapSource.SIMILARITY:
            return self._compute_similarity(extracted)
        return self._vision_tower_maps(extracted, self.get_maps(MapSource.SIMILARITY, extracted))

    def find_thresholds(self, source: MapSource) -> dict[str, MapThresholds]:
        """Find the best thresholds of a source's maps, by kind of text."""

        def candidates(extracted: ExtractedPicture, phrase: int) -> Tensor:
            geometry = extracted.features.geometry
            maps = self.get_maps(source, extracted)[phrase]
            return normalise_by_max(
                resize_maps_to_picture(maps, geometry, comparison_size(geometry.picture))
            )

        return calibrate_thresholds(self._context, source.value, candidates)

    def predict_best_masks(self, source: MapSource, extracted: ExtractedPicture) -> Tensor:
        """Predict each phrase's mask, (P, H, W) bool, from the source's best map."""
        geometry = extracted.features.geometry
        thresholds = self.find_thresholds(source)
        masks = []
        for maps, kind in zip(self.get_maps(source, extracted), extracted.kinds, strict=True):
            best = thresholds[kind].best_index(range(len(maps)))
            best_map = resize_maps_to_picture(maps[best : best + 1], geometry, geometry.picture)
            masks.append(normalise_by_max(best_map)[0] > thresholds[kind].thresholds[best])
        return torch.stack(masks)

    @torch.no_grad()
    def _compute_similarity(self, extracted: ExtractedPicture) -> Tensor:
        adapter = self._adapter
        maps = []
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
                maps.append(similarity_maps(states[:, list(tokens)], image))
        return torch.stack(maps)

    def _vision_tower_maps(self, extracted: ExtractedPicture, similarity: Tensor) -> Tensor:
        if self._best_layers is None:
            self._best_layers = {
                kind: thresholds.best_index(range(len(thresholds.thresholds)))
                for kind, thresholds in self.find_thresholds(MapSource.SIMILARITY).items()
            }
        attention = self._patch_attention(extracted)
        height, width = similarity.shape[2:]
        tower_maps = []
        for maps, kind in zip(similarity, extracted.kinds, strict=True):
            patch = int(maps[self._best_layers[kind]].flatten().argmax())
            tower_maps.append(attention[:, patch].reshape(-1, height, width))
        return torch.stack(tower_maps)

    @property
    def _vision_tower(self) -> PreTrainedModel | None:
        """The vision tower of a LLaVA, whose patches are the image tokens; else None."""
        if not isinstance(self._adapter, LlavaAdapter) or self._adapter.views != 1:
            return None
        tower = self._adapter.model.base_model.vision_tower
        assert isinstance(tower, PreTrainedModel)
        return tower

    @torch.no_grad()
    def _patch_attention(self, extracted: ExtractedPicture) -> Tensor:
        """Compute each patch's attention to all patches, (V·U, h·w, h·w), without class token."""
        tower = self._vision_tower
        assert tower is not None
        exchange = extracted.picture_exchanges.exchanges[0]
        prompt = self._adapter.build_prompt(extracted.picture_exchanges.picture, exchange.question)
        pixels = prompt.inputs["pixel_values"].to(self._adapter.device, self._adapter.dtype)
        implementation = cast(str, tower.config._attn_implementation)
        # Only eager attention returns its weights.
        tower.set_attn_implementation("eager")
        try:
            layers: tuple[Tensor, ...] = tower(pixels, output_attentions=True).attentions
        finally:
            tower.set_attn_implementation(implementation)
        first = layers[0].shape[-1] - prompt.picture_views[0][-1].token_positions.numel()
        return torch.cat([layer[0, :, first:, first:] for layer in layers]).float().cpu()


def similarity_maps(phrase_states: Tensor, image_states: Tensor) -> Tensor:
    """Compute the similarity of image tokens' hidden states to those of a phrase.

    Args:
        phrase_states: (M, T, D).
        image_states: (M, h, w, D).

    Returns:
        (M, h, w) in 0..1: the mean cosine over the phrase's tokens, scaled in each layer from its
        minimum (0) to its maximum (1).
    """
    phrase = functional.normalize(phrase_states, dim=-1)
    image = functional.normalize(image_states, dim=-1)
    cosine = torch.einsum("mtd,mhwd->mhw", phrase, image) / phrase_states.shape[1]
    minimum, maximum = cosine.amin((1, 2), keepdim=True), cosine.amax((1, 2), keepdim=True)
    return (cosine - minimum) / (maximum - minimum).clamp_min(1e-12)


def _phrase_positions(
    prompt: Prompt, spans: tuple[tuple[int, int], ...]
) -> Iterator[tuple[int, ...]]:
    """Yield the positions of each phrase's tokens in the sequence."""
    text, start, offsets = prompt.answer, prompt.answer_start, prompt.answer_offsets
    if text is None or offsets is None:
        text, start, offsets = prompt.question, prompt.question_start, prompt.question_offsets
    for begin, end in spans:
        yield tuple(start + token for token in make_phrase_span(text, begin, end, offsets).tokens)
