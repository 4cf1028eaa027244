"""Localization heads (Kang et al., CVPR 2025, arXiv 2503.06287, sections 3 and 4).

Letters: ``P`` phrases, ``n`` samples, ``M`` layers (times views), ``N`` heads, ``h w`` image-token
grid, ``a b`` its part that shows the picture, ``H W`` picture size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.pictures.geometry import cell_centres_on_picture, crop_to_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.training_free.baselines.base import Baseline, blur_maps
from flmm.training_free.traced_text import TracedText
from flmm.types import ImageGeometry, Size

NUM_HEADS = 3
"""k: the heads whose maps are summed."""
_HEADS_PER_SAMPLE = 10
"""Of the lowest spatial entropy; those most often among them are chosen."""
_FIRST_LAYER = 2
"""Earlier layers are left out."""
_WITH_CORNERS = np.ones((3, 3), dtype=np.int64)
"""Cells that share a corner are connected."""


@dataclass(frozen=True)
class LocalizationHeadChoice:
    """The heads whose attention finds what a phrase means, chosen without any mask."""

    heads: tuple[tuple[int, int], ...]
    """(layer, head), best first; a tiled LMM has 2·M layers, the coarse view's first."""
    frequencies: tuple[float, ...]
    """Share of the samples, in 0..1, in which each was among those of the lowest entropy."""
    num_samples: int


class LocalizationHeads(Baseline):
    """The sum of three heads' maps; the box of its largest region prompts SAM.

    Args:
        choice: from ``fit``, on about 1,000 samples in the paper; None chooses from the texts that
            masks are computed for.
    """

    name = "localization-heads"

    def __init__(self, choice: LocalizationHeadChoice | None = None) -> None:
        self._choice = choice

    @staticmethod
    def fit(adapter: LMMAdapter, texts: Iterable[TracedText]) -> LocalizationHeadChoice:
        """Choose the heads; every phrase is a sample, and no mask is needed.

        Raises:
            InputError: no phrase, or no head is left; the LMM may have too few layers.
        """
        sums, entropies = [], []
        for text in texts:
            for span in text.spans:
                maps = text.phrase_maps(span).cpu()
                sums.append(maps.sum(dim=(1, 2)))
                visible = crop_to_picture(maps, text.geometry).numpy()
                entropies.append(torch.tensor([compute_spatial_entropy(each) for each in visible]))
        if not sums:
            raise InputError("no phrase was given to choose localization heads from")
        return choose_heads(
            torch.stack(sums), torch.stack(entropies), adapter.layers, adapter.heads
        )

    def compute_maps(self, adapter: LMMAdapter, texts: Sequence[TracedText]) -> list[Tensor]:
        """See ``Baseline.compute_maps``; the LMM does not run again.

        Raises:
            InputError: heads are chosen from these texts, and ``fit`` finds none.
        """
        if not any(text.spans for text in texts):
            return [torch.zeros(0, *text.geometry.grid) for text in texts]
        choice = self._choice or self.fit(adapter, texts)
        indices = [layer * adapter.heads + head for layer, head in choice.heads]
        blurred = []
        for text in texts:
            maps = [text.phrase_maps(span)[indices].sum(dim=0).cpu() for span in text.spans]
            grid = text.geometry.grid
            blurred.append(blur_maps(torch.stack(maps)) if maps else torch.zeros(0, *grid))
        return blurred

    def segment_maps(
        self,
        maps: Tensor,
        geometry: ImageGeometry,
        segmenter: Segmenter,
        embeddings: PictureEmbeddings,
    ) -> Tensor:
        """See ``Baseline.segment_maps``: prompted with a box alone.

        The paper's convex hull of the region has the same box.
        """
        boxes = torch.stack([_region_box(each, geometry) for each in maps])
        prompts = SegmenterPrompts(boxes=boxes)
        masks = segmenter.decode(embeddings, geometry.picture, prompts)
        return segmenter.upsample_to_picture(masks.logits[:, 0], geometry.picture)


def choose_heads(
    sums: Tensor, entropies: Tensor, num_layers: int, num_heads: int
) -> LocalizationHeadChoice:
    """Choose the heads that most often have the lowest spatial entropy.

    Args:
        sums: (n, M*N): how much of a head's attention goes to the image tokens.
        entropies: (n, M*N), from ``compute_spatial_entropy``.
        num_layers: M of one view.
        num_heads: N.

    Raises:
        InputError: no head is left.
    """
    mean_sums = sums.mean(dim=0)
    layers = torch.arange(mean_sums.numel()) // num_heads
    kept = (mean_sums >= find_elbow(mean_sums)) & (layers % num_layers >= _FIRST_LAYER)
    candidates = entropies.masked_fill(~kept, torch.inf)
    count = min(_HEADS_PER_SAMPLE, candidates.shape[1])
    lowest, indices = candidates.topk(count, dim=1, largest=False)
    frequencies = torch.zeros_like(candidates).scatter_(
        1, indices, lowest.isfinite().to(candidates)
    )
    frequencies = frequencies.mean(dim=0)
    if not frequencies.any():
        raise InputError(
            f"none of the LMM's {num_layers} layers has localization heads: the first"
            f" {_FIRST_LAYER} never count, and in the others no map has a region of its own;"
            " choose another method"
        )
    finite = entropies.isfinite()
    mean_entropies = torch.where(finite, entropies, 0).sum(dim=0) / finite.sum(dim=0).clamp_min(1)
    # Of heads that are equally often among them, those of the lower mean entropy come first.
    order = sorted(
        frequencies.nonzero()[:, 0].tolist(),
        key=lambda index: (-float(frequencies[index]), float(mean_entropies[index])),
    )[:NUM_HEADS]
    return LocalizationHeadChoice(
        tuple(divmod(index, num_heads) for index in order),
        tuple(float(frequencies[index]) for index in order),
        len(sums),
    )


def find_elbow(values: Tensor) -> float:
    """Return the value at the elbow of the sorted (n,) values.

    It is the point farthest from the chord between the curve's ends.
    """
    ordered = values.sort().values
    chord = torch.linspace(float(ordered[0]), float(ordered[-1]), len(ordered))
    # The distance from a straight line is proportional to the vertical one.
    return float(ordered[(ordered - chord).abs().argmax()])


def compute_spatial_entropy(attention: np.ndarray[Size, np.dtype[np.float32]]) -> float:
    """Return how scattered an (a, b) map is: the entropy, in nats, of its regions' areas.

    The regions are the connected cells above the map's mean. Infinite for a map whose whole bottom
    row is above it, which is an artefact, and for a constant map.
    """
    from scipy.ndimage import label

    lit = attention > attention.mean()
    if lit[-1].all() or not lit.any():
        return float("inf")
    labels, _ = label(lit, _WITH_CORNERS)
    areas = np.bincount(labels[lit])[1:]
    shares = areas / areas.sum()
    return float(-(shares * np.log(shares)).sum())


def _region_box(attention: Tensor, geometry: ImageGeometry) -> Tensor:
    """Return the (4,) float box, in picture pixels, of an (h, w) map's largest region."""
    from scipy.ndimage import label

    height, width = geometry.picture
    visible = crop_to_picture(attention, geometry)
    lit = (visible > visible.mean()).numpy()
    if not lit.any():
        return torch.tensor([0.0, 0.0, width, height])
    labels, _ = label(lit, _WITH_CORNERS)
    largest = np.bincount(labels[lit]).argmax()
    x, y = crop_to_picture(cell_centres_on_picture(geometry), geometry)[:, labels == largest]
    rows, columns = geometry.grid
    half_height = height * geometry.canvas[0] / geometry.resized[0] / rows / 2
    half_width = width * geometry.canvas[1] / geometry.resized[1] / columns / 2
    left, right = x.min() - half_width, x.max() + half_width
    top, bottom = y.min() - half_height, y.max() + half_height
    return torch.stack(
        [left.clamp_min(0), top.clamp_min(0), right.clamp_max(width), bottom.clamp_max(height)]
    )
