"""DecAF (Han et al., 2025, arXiv 2510.19592, section 3), for pictures.

Letters: ``P`` phrases, ``M`` layers, ``N`` heads, ``L`` tokens of the whole sequence, ``R`` rows of
an attention matrix, ``C`` = h·w image tokens, ``n`` points, ``e`` side of the segmenter's image
embedding, ``H W`` picture size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.attention.attention_rows import dequantize_rows
from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import RowBlock
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import (
    cell_centres_on_picture,
    crop_to_picture,
    resize_maps_to_picture,
)
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.training_free.baselines.base import (
    Baseline,
    average_over_phrases,
    blur_maps,
)
from flmm.training_free.traced_text import TracedText
from flmm.types import ImageGeometry

_BACKGROUND_PROMPT = ("Where is the background?", "The background")
_POINT_THRESHOLD = 0.8
"""Cells from this value on, in 0..1, are points."""
_QUALITY_THRESHOLD = 0.7
"""Masks are kept from this product on, of SAM's score and the share of the attention that they
cover. Not in the paper; chosen on sticker scenes, where 0.5 to 0.98 give the same."""


class DecAF(Baseline):
    """Attention rollout of the phrase minus that of the background; its peaks are points for SAM.

    The paper's other contrast, between a video and its frames, has no counterpart in a picture.
    """

    name = "decaf"
    needs_image_tokens_in_sequence = True

    @torch.no_grad()
    def compute_maps(self, adapter: LMMAdapter, texts: Sequence[TracedText]) -> list[Tensor]:
        """See ``Baseline.compute_maps``; one forward pass a text and one a picture.

        All rows of the attention matrices are recorded: memory grows with L².

        Raises:
            InputError: the LMM's attention cannot be recorded, or has no image tokens in its
                sequence.
        """
        self.check_suits(adapter)
        backgrounds: dict[int, Tensor] = {}
        blurred = []
        for text in texts:
            picture = id(text.picture)
            if picture not in backgrounds:
                prompt = adapter.build_prompt(text.picture, *_BACKGROUND_PROMPT)
                assert prompt.answer_offsets is not None
                end = prompt.answer_start + len(prompt.answer_offsets)
                backgrounds[picture] = _roll_out_text(adapter, prompt, prompt.answer_start, end)
            token_maps = _roll_out_text(adapter, text.prompt, text.start, text.end)
            phrase_maps = average_over_phrases(token_maps, text.spans)
            blurred.append(blur_maps((phrase_maps - backgrounds[picture].mean(0)).clamp_min(0)))
        return blurred

    def segment_maps(
        self,
        maps: Tensor,
        geometry: ImageGeometry,
        segmenter: Segmenter,
        embeddings: PictureEmbeddings,
    ) -> Tensor:
        """See ``Baseline.segment_maps``: the union of the good masks of all points."""
        low = [_segment_map(each, geometry, segmenter, embeddings) for each in maps]
        return segmenter.upsample_to_picture(torch.stack(low), geometry.picture)


def _roll_out_text(adapter: LMMAdapter, prompt: Prompt, start: int, end: int) -> Tensor:
    """Return the (end - start, h, w) rollout of the tokens from ``start`` to ``end``."""
    positions = torch.arange(prompt.length, device=adapter.device)[None]
    with record(AttentionRecorder(adapter, positions, positions), adapter) as recorder:
        adapter.model.base_model(**adapter.collate([prompt]).model_inputs, use_cache=False)
    (block,) = recorder.rows(0, prompt.length).blocks
    (views,) = prompt.picture_views
    columns = views[-1].token_positions.flatten().to(adapter.device)
    rollout = roll_out(block, slice(start, end), columns).cpu()
    return rollout.reshape(-1, *views[-1].geometry.grid)


def roll_out(block: RowBlock, rows: slice, columns: Tensor) -> Tensor:
    """Return some rows and columns of the attention rollout over the upper half of the layers.

    The rollout is the product of each layer's ``0.5·A + 0.5·I``, the uppermost on the left. A is
    the mean of the heads' matrices, with the largest value of each in ``rows`` and ``columns`` as
    its weight.

    Args:
        block: all L rows of all layers' and heads' matrices, (L, M, N, L).
        rows: of the phrase's text.
        columns: (C,) int64, of the image tokens.

    Returns:
        (R, C) float32.
    """
    num_layers = block.quantized.shape[1]
    rollout = torch.eye(block.quantized.shape[-1], device=columns.device)[rows]
    for layer in reversed(range(num_layers // 2, num_layers)):
        # (L, N, L); a layer at a time, because all of them need gigabytes.
        heads = dequantize_rows(block.quantized[:, layer], block.row_max[:, layer])
        weights = heads[rows][..., columns].amax(dim=(0, 2))
        # Where a sliding window hides the picture, all are 0: then all heads count the same.
        weights += torch.finfo(weights.dtype).tiny
        attention = torch.einsum("n,inj->ij", weights / weights.sum(), heads)
        rollout = (rollout @ attention + rollout) / 2
    return rollout[:, columns]


def _segment_map(
    attention: Tensor,
    geometry: ImageGeometry,
    segmenter: Segmenter,
    embeddings: PictureEmbeddings,
) -> Tensor:
    """Return the (4e, 4e) logits of one (h, w) map's mask."""
    points = find_points(attention, geometry)
    masks = segmenter.decode(
        embeddings, geometry.picture, SegmenterPrompts.at_points(points[:, None]), multimask=True
    )
    # SAM's best of the three masks of each point.
    scores, best = masks.scores.max(dim=1)
    logits = masks.logits[torch.arange(len(best), device=best.device), best]
    visible = segmenter.cut_to_picture(logits, geometry.picture)
    weights = resize_maps_to_picture(
        attention[None].to(visible.device), geometry, (visible.shape[-2], visible.shape[-1])
    )
    tiny = torch.finfo(weights.dtype).tiny
    covered = (weights * (visible > 0)).sum(dim=(1, 2)) / weights.sum().clamp_min(tiny)
    quality = scores * covered
    kept = quality >= quality.max().clamp_max(_QUALITY_THRESHOLD)
    return logits[kept].amax(dim=0)


def find_points(attention: Tensor, geometry: ImageGeometry) -> Tensor:
    """Return the (n, 2) x, y, in picture pixels, of cells where an (h, w) map is near its maximum.

    The map is scaled to 0..1 over the picture; at least its maximum is a point.
    """
    visible = crop_to_picture(attention, geometry)
    centres = crop_to_picture(cell_centres_on_picture(geometry), geometry)
    low, high = visible.min(), visible.max()
    is_point = visible >= low + _POINT_THRESHOLD * (high - low) if high > low else visible == high
    height, width = geometry.picture
    limit = torch.tensor([width, height])
    return centres[:, is_point].T.clamp(min=torch.zeros(2), max=limit)
