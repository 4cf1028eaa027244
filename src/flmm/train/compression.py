"""A training picture as plain tensors of few bytes, and back: what a feature cache holds.

Letters: ``P`` phrases, ``K`` maps, ``h w`` image-token grid, ``M`` layers, ``T`` tokens of all
phrases, ``D`` LLM width, ``H W`` picture size.
"""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from flmm.data.features import AnswerFeatures, GroundingFeatures, PhraseFeatures
from flmm.train.dataset import TrainingExample
from flmm.types import ImageGeometry, Size

_MAX_FLOAT16 = 65_504.0


class CachePrecision(StrEnum):
    """What a map's values are kept as, each map by a scale of its own."""

    FLOAT16 = "float16"
    UINT8 = "uint8"


def compress_example(example: TrainingExample, precision: CachePrecision) -> dict[str, Tensor]:
    """The picture as tensors on the CPU, by name."""
    features = example.features
    maps = torch.stack([phrase.attention for phrase in features.phrases]).cpu().float()
    largest = maps.amax(dim=(2, 3))
    # Attention over many tokens is smaller than half precision's smallest normal number.
    shares = maps / largest.clamp_min(1e-30)[..., None, None]
    height, width = example.masks.shape[1:]
    packed = {
        "attention": (shares * 255).round().to(torch.uint8)
        if precision is CachePrecision.UINT8
        else shares.half(),
        "largest": largest,
        "hidden": _to_16_bit(
            torch.cat([phrase.hidden_states for phrase in features.phrases], dim=1)
        ),
        "tokens": torch.tensor([phrase.hidden_states.shape[1] for phrase in features.phrases]),
        "geometry": _geometry_numbers(features.geometry),
        "size": torch.tensor([height, width]),
        **_compress_masks("masks", example.masks),
        **_compress_masks("ignored", example.ignored_masks),
    }
    if features.image_embedding is not None:
        packed["embedding"] = _to_16_bit(features.image_embedding)
    if features.answers:
        states = [answer.hidden_states for answer in features.answers]
        packed["answers"] = _to_16_bit(torch.cat(states, dim=1))
        packed["answer_tokens"] = torch.tensor([one.shape[1] for one in states])
        marks = torch.cat([answer.groundable for answer in features.answers])
        packed["groundable"] = marks.to(torch.uint8)
    return {name: tensor.contiguous().cpu() for name, tensor in packed.items()}


def decompress_example(packed: Mapping[str, Tensor]) -> TrainingExample:
    """The picture that ``pack`` made small, in float32."""
    shares = packed["attention"].float()
    if packed["attention"].dtype == torch.uint8:
        shares = shares / 255
    maps = shares * packed["largest"][..., None, None]
    hidden = torch.split(packed["hidden"].float(), packed["tokens"].tolist(), dim=1)
    answers: tuple[AnswerFeatures, ...] = ()
    if "answers" in packed:
        lengths = packed["answer_tokens"].tolist()
        answers = tuple(
            AnswerFeatures(states, marks)
            for states, marks in zip(
                torch.split(packed["answers"].float(), lengths, dim=1),
                torch.split(packed["groundable"].float(), lengths),
                strict=True,
            )
        )
    embedding = packed.get("embedding")
    features = GroundingFeatures(
        _geometry(packed["geometry"]),
        None if embedding is None else embedding.float(),
        tuple(PhraseFeatures(*pair) for pair in zip(maps, hidden, strict=True)),
        answers,
    )
    height, width = packed["size"].tolist()
    return TrainingExample(
        features,
        _decompress_masks("masks", packed, (height, width)),
        _decompress_masks("ignored", packed, (height, width)),
    )


def _to_16_bit(tensor: Tensor) -> Tensor:
    """In 2 bytes a value; some LLMs have states that only bfloat16 can hold."""
    fits = bool(tensor.abs().amax() <= _MAX_FLOAT16)
    return tensor.to(torch.float16 if fits else torch.bfloat16)


def _compress_masks(name: str, masks: Tensor) -> dict[str, Tensor]:
    runs = coco.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    counts = [np.frombuffer(one["counts"], dtype=np.uint8) for one in runs]
    return {
        name: torch.from_numpy(np.concatenate(counts).copy()),
        f"{name}_lengths": torch.tensor([len(one) for one in counts]),
    }


def _decompress_masks(name: str, packed: Mapping[str, Tensor], size: Size) -> Tensor:
    counts = torch.split(packed[name], packed[f"{name}_lengths"].tolist())
    runs = [{"size": list(size), "counts": one.numpy().tobytes()} for one in counts]
    return torch.from_numpy(coco.decode(runs).transpose(2, 0, 1).astype(np.bool_))


def _geometry_numbers(geometry: ImageGeometry) -> Tensor:
    parts = (geometry.picture, geometry.resized, geometry.offset, geometry.canvas, geometry.grid)
    return torch.tensor(parts)


def _geometry(numbers: Tensor) -> ImageGeometry:
    pairs = [(int(first), int(second)) for first, second in numbers.tolist()]
    return ImageGeometry(*pairs)
