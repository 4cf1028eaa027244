"""Architecture and training of the embedded SAM, a small `SamModel` of transformers.

First the vision encoder is trained on dense targets without kinds (thing or not, offset to the
thing's centre, edges): with a good mask prompt from the start, it would learn to ignore the
picture. Then all of it is trained with points, boxes and coarse masks; many prompts have no mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import (
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from flmm.embedded_model.recipe.cpu_attention import use_cpu_attention_in_sam
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR, DEVICE
from flmm.embedded_model.recipe.training_loop import TensorDataclass, TrainingStage, train_stage
from flmm.progress import ProgressCallback, no_progress
from flmm.segmenters.sam import SamSegmenter
from flmm.stickers.dataset import SceneDataset
from flmm.stickers.draw import Drawing
from flmm.train.losses import mask_loss

IMAGE_SIZE, PATCH_SIZE, HIDDEN_SIZE = 256, 8, 96
MASK_SIZE = 4 * IMAGE_SIZE // PATCH_SIZE
_MICRO_BATCH_SIZE = 4 * BATCH_SIZE_FACTOR
_MAX_REGIONS = 4


def build_sam() -> SamModel:
    """Build the untrained SAM, about 1.5 M parameters, for pictures of 256 pixels."""
    vision = SamVisionConfig(
        hidden_size=128, output_channels=HIDDEN_SIZE, num_hidden_layers=4, num_attention_heads=4,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, mlp_dim=384, window_size=8,
        global_attn_indexes=[2], use_rel_pos=False, num_pos_feats=HIDDEN_SIZE // 2,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(
        hidden_size=HIDDEN_SIZE,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        mask_input_channels=16,
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=HIDDEN_SIZE, mlp_dim=256, num_hidden_layers=2, num_attention_heads=4,
        iou_head_hidden_dim=HIDDEN_SIZE,
    )  # fmt: skip
    sam = SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )
    # Built from a configuration, transformers' SAM has two different random positional embeddings,
    # for pictures and for prompts, with frequencies so high (scale of half the width, where Meta's
    # SAM has 1) that neighbouring positions look unrelated: no prompt could point at anything.
    embedding = sam.shared_image_embedding
    torch.nn.init.normal_(embedding.positional_embedding)
    sam.prompt_encoder.shared_embedding = embedding
    return sam


class DensePredictor(nn.Module):
    """The vision encoder with a linear layer, 4x4 values per patch and target, for the warm-up."""

    NUM_TARGETS = 4

    def __init__(self, sam: SamModel) -> None:
        super().__init__()
        self.vision_encoder = sam.vision_encoder
        self.read_out = nn.Conv2d(HIDDEN_SIZE, self.NUM_TARGETS * 16, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Predict thing, offset down, offset across, edge: (B, 3, S, S) → (B, 4, S/2, S/2)."""
        embedding = self.vision_encoder(pixel_values).last_hidden_state
        return functional.pixel_shuffle(self.read_out(embedding), 4)


def _downsample_masks(masks: NDArray[np.bool_] | Tensor) -> Tensor:
    """Return (n, h, w) masks as coverage in 0..1 at SAM's low resolution, (n, 128, 128)."""
    coverage = torch.as_tensor(masks).float()[:, None]
    return functional.interpolate(coverage, (MASK_SIZE, MASK_SIZE), mode="area")[:, 0]


def dense_targets(drawing: Drawing) -> Tensor:
    """Return the warm-up's targets, (4, 128, 128).

    They are: thing or not, offsets down and across to its centre in quarters of the side, edges.
    """
    things = _downsample_masks(drawing.thing_masks)
    thing = things.amax(0)
    thing_index = things.argmax(0)
    centres = torch.tensor([(thing.y, thing.x) for thing in drawing.scene.things])[thing_index]
    coordinates = (torch.arange(MASK_SIZE) + 0.5) / MASK_SIZE
    positions = torch.stack(torch.meshgrid(coordinates, coordinates, indexing="ij"), -1)
    offsets = ((centres - positions) * 4).permute(2, 0, 1)
    ids = drawing.region_ids
    edge = np.zeros(ids.shape, dtype=np.bool_)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    return torch.cat([thing[None], offsets, _downsample_masks(edge[None])])


def dense_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return BCE + Dice on things, L1 on offsets inside things, BCE on edges."""
    thing = target[:, 0]
    inside = (thing > 0.5)[:, None]
    offsets = (predicted[:, 1:3] - target[:, 1:3]).abs() * inside
    edges = functional.binary_cross_entropy_with_logits(predicted[:, 3], target[:, 3])
    return (
        mask_loss(predicted[:, 0], thing) + offsets.sum() / (2 * inside.sum()).clamp(min=1) + edges
    )


@dataclass(frozen=True)
class PromptBatch(TensorDataclass):
    """Pictures with R prompted regions, all with the same type of prompt."""

    pixel_values: Tensor
    picture_indices: Tensor
    """(R,): index of each region's picture."""
    targets: Tensor
    """(R, 128, 128) coverage in 0..1."""
    mask_logits: Tensor
    """(R, 1, 128, 128) coarse mask logits."""
    has_mask: Tensor
    """(R,) bool: whether the mask logits are part of the prompt."""
    boxes: Tensor
    """(R, 1, 4) in SAM's pixels, with noise."""
    points: Tensor
    """(R, 1, 1, 2) in SAM's pixels, inside the region."""
    prompt_type: str
    """"box", "point" or "both": the sparse prompts of this batch."""


def _simulate_mask_logits(region: Tensor, random: torch.Generator) -> Tensor:
    """Return a region's mask logits as a decoder might predict them.

    The mask is blurred, shifted, shrunk or grown, and noisy.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=random))

    cells = int(uniform(10, 40))
    noise = torch.randn(1, 1, 10, 10, generator=random)
    noise = functional.interpolate(noise, region.shape[-2:], mode="bilinear")[0, 0]
    shift = (int(uniform(-4, 5)), int(uniform(-4, 5)))
    coarse = functional.interpolate(region[None, None], (cells, cells), mode="area")
    blurred = functional.interpolate(coarse, region.shape[-2:], mode="bilinear")[0, 0]
    blurred = blurred.roll(shift, (0, 1)) + uniform(0, 0.25) * noise
    return (blurred - uniform(0.3, 0.6)) * uniform(4, 14)


def _sample_prompts(
    drawing: Drawing, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return targets, coarse mask logits, boxes and points of at most 4 regions of a picture."""
    things, bands = _downsample_masks(drawing.thing_masks), _downsample_masks(drawing.band_masks)
    bands = bands[bands.sum((1, 2)) > 100]
    things = things[torch.randperm(len(things), generator=random)[: _MAX_REGIONS - 1]]
    bands = bands[torch.randperm(len(bands), generator=random)[: _MAX_REGIONS - len(things)]]
    targets = torch.cat([things, bands])
    boxes, points = [], []
    for target in targets:
        rows, columns = torch.nonzero(target > 0.5, as_tuple=True)
        box = torch.tensor(
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float
        )
        extent = (box[2:] - box[:2]).repeat(2)
        box = box + torch.randn(4, generator=random) * 0.07 * extent
        pixel = int(torch.randint(len(rows), (1,), generator=random))
        boxes.append((box * (IMAGE_SIZE / MASK_SIZE)).clamp(0, IMAGE_SIZE))
        points.append(torch.stack([columns[pixel], rows[pixel]]) * (IMAGE_SIZE / MASK_SIZE))
    masks = torch.stack([_simulate_mask_logits(target, random) for target in targets])
    return targets, masks, torch.stack(boxes), torch.stack(points)


def predict_masks(sam: SamModel, batch: PromptBatch) -> tuple[Tensor, Tensor]:
    """Return mask logits, (R, 128, 128), and predicted IoU, (R,), of the prompted regions."""
    embeddings = sam.vision_encoder(batch.pixel_values).last_hidden_state[batch.picture_indices]
    points = batch.points if batch.prompt_type != "box" else None
    # Positions are sines of large angles: in bfloat16 corners and points would jump by pixels.
    with torch.autocast(DEVICE.type, enabled=False):
        sparse, dense = sam.prompt_encoder(
            input_points=points,
            input_labels=None if points is None else torch.ones_like(points[..., 0]).long(),
            input_boxes=batch.boxes if batch.prompt_type != "point" else None,
            input_masks=batch.mask_logits,
        )
        positions = sam.get_image_wide_positional_embeddings()  # type: ignore[no-untyped-call]
    no_mask = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    dense = torch.where(batch.has_mask[:, None, None, None], dense, no_mask)
    logits, iou = sam.mask_decoder(
        image_embeddings=embeddings,
        image_positional_embeddings=positions.expand(len(embeddings), -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return logits[:, 0, 0], iou[:, 0, 0]


def segment_loss(sam: SamModel, batch: PromptBatch) -> Tensor:
    """Return BCE + Dice on the mask plus the squared error of the predicted IoU."""
    logits, iou = predict_masks(sam, batch)
    masks, targets = logits.detach() > 0, batch.targets > 0.5
    true_iou = (masks & targets).sum((1, 2)) / (masks | targets).sum((1, 2)).clamp(min=1)
    return mask_loss(logits, batch.targets) + functional.mse_loss(iou, true_iou)


def warm_up(
    sam: SamModel,
    dataset: SceneDataset,
    folder: Path,
    steps: int,
    on_progress: ProgressCallback = no_progress,
) -> None:
    """Train the vision encoder on the dense targets."""
    preprocess = SamSegmenter(sam).preprocess
    sam.requires_grad_(True)
    use_cpu_attention_in_sam(sam)
    model = DensePredictor(sam)

    def batches(step: int) -> list[tuple[Tensor, Tensor]]:
        indices = _sample_indices(dataset, 3, step, 4 * _MICRO_BATCH_SIZE)
        drawings = [dataset.drawing(i) for i in indices]
        pixels = torch.stack([preprocess(drawing.picture) for drawing in drawings])
        targets = torch.stack([dense_targets(drawing) for drawing in drawings])
        return list(
            zip(
                torch.split(pixels, _MICRO_BATCH_SIZE),
                torch.split(targets, _MICRO_BATCH_SIZE),
                strict=True,
            )
        )

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return dense_loss(model(batch[0]), batch[1])

    train_stage(
        TrainingStage("segmenter-warm-up", model, steps, batches, loss), folder, on_progress
    )


def _sample_indices(dataset: SceneDataset, seed: int, step: int, count: int) -> list[int]:
    return [int(i) for i in np.random.default_rng((seed, step)).integers(dataset.count, size=count)]


def train(
    sam: SamModel,
    dataset: SceneDataset,
    folder: Path,
    steps: int,
    on_progress: ProgressCallback = no_progress,
) -> None:
    """Train the whole SAM with points, boxes and coarse masks as prompts."""
    preprocess = SamSegmenter(sam).preprocess
    sam.requires_grad_(True)
    use_cpu_attention_in_sam(sam)
    sam.shared_image_embedding.requires_grad_(False)

    def batches(step: int) -> list[PromptBatch]:
        random = torch.Generator().manual_seed(step)
        drawings = [
            dataset.drawing(i) for i in _sample_indices(dataset, 4, step, 4 * _MICRO_BATCH_SIZE)
        ]
        prompt_types = ("box", "point", "both", "box")
        return [
            pack(drawings[i * _MICRO_BATCH_SIZE : (i + 1) * _MICRO_BATCH_SIZE], prompt_type, random)
            for i, prompt_type in enumerate(prompt_types)
        ]

    def pack(drawings: Sequence[Drawing], prompt_type: str, random: torch.Generator) -> PromptBatch:
        parts = [_sample_prompts(drawing, random) for drawing in drawings]
        targets, masks, boxes, points = (torch.cat([part[k] for part in parts]) for k in range(4))
        counts = torch.tensor([len(part[0]) for part in parts])
        return PromptBatch(
            torch.stack([preprocess(drawing.picture) for drawing in drawings]),
            torch.repeat_interleave(counts),
            targets,
            masks[:, None],
            torch.rand(len(targets), generator=random) < 0.4,
            boxes[:, None],
            points[:, None, None],
            prompt_type,
        )

    stage = TrainingStage(
        "segmenter", sam, steps, batches, lambda batch: segment_loss(sam, batch), 1e-3
    )
    train_stage(stage, folder, on_progress)
