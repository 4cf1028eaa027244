"""Compression of training examples to the tensors that a feature cache stores, and back.

Letters: ``P`` phrases, ``K`` maps, ``h w`` image-token grid, ``M`` layers, ``T`` tokens of all
phrases, ``D`` LLM width, ``H W`` picture size.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from flmm.data.features import AnswerFeatures, GroundingFeatures, PhraseFeatures
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.train.dataset import TrainingExample
from flmm.train.settings import CachePrecision
from flmm.types import ImageGeometry, Size

_MAX_FLOAT16 = 65_504.0
_EMBEDDING_PREFIX = "embedding."


def compress_example(example: TrainingExample, precision: CachePrecision) -> dict[str, Tensor]:
    """Return the example as tensors on the CPU, by name; ``decompress_example`` reverses it."""
    features = example.features
    maps = torch.stack([phrase.attention for phrase in features.phrases]).cpu().float()
    largest = maps.amax(dim=(2, 3))
    # Attention over many tokens is smaller than half precision's smallest normal number.
    scaled = maps / largest.clamp_min(1e-30)[..., None, None]
    height, width = example.masks.shape[1:]
    packed = {
        "attention": (scaled * 255).round().to(torch.uint8)
        if precision is CachePrecision.UINT8
        else scaled.half(),
        "largest": largest,
        "hidden": _to_16_bit(
            torch.cat([phrase.hidden_states for phrase in features.phrases], dim=1)
        ),
        "tokens": torch.tensor([phrase.hidden_states.shape[1] for phrase in features.phrases]),
        "geometry": _geometry_to_tensor(features.geometry),
        "size": torch.tensor([height, width]),
        **_compress_masks("masks", example.masks),
        **_compress_masks("ignored", example.ignored_masks),
    }
    if features.image_embedding is not None:
        for index, tensor in enumerate(features.image_embedding.tensors):
            packed[f"{_EMBEDDING_PREFIX}{index}"] = _to_16_bit(tensor)
    if features.answers:
        states = [answer.hidden_states for answer in features.answers]
        packed["answers"] = _to_16_bit(torch.cat(states, dim=1))
        packed["answer_tokens"] = torch.tensor([state.shape[1] for state in states])
        groundable = torch.cat([answer.groundable for answer in features.answers])
        packed["groundable"] = groundable.to(torch.uint8)
    return {name: tensor.contiguous().cpu() for name, tensor in packed.items()}


def decompress_example(packed: Mapping[str, Tensor]) -> TrainingExample:
    """Return the example that ``compress_example`` compressed, in float32."""
    scaled = packed["attention"].float()
    if packed["attention"].dtype == torch.uint8:
        scaled = scaled / 255
    maps = scaled * packed["largest"][..., None, None]
    hidden = torch.split(packed["hidden"].float(), packed["tokens"].tolist(), dim=1)
    answers: tuple[AnswerFeatures, ...] = ()
    if "answers" in packed:
        lengths = packed["answer_tokens"].tolist()
        answers = tuple(
            AnswerFeatures(states, groundable)
            for states, groundable in zip(
                torch.split(packed["answers"].float(), lengths, dim=1),
                torch.split(packed["groundable"].float(), lengths),
                strict=True,
            )
        )
    names = sorted(name for name in packed if name.startswith(_EMBEDDING_PREFIX))
    embedding = tuple(packed[name].float() for name in names)
    features = GroundingFeatures(
        _geometry_from_tensor(packed["geometry"]),
        PictureEmbeddings(embedding) if embedding else None,
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
    """Convert to float16, or to bfloat16 where values exceed float16's range, as in some LLMs."""
    fits = bool(tensor.abs().amax() <= _MAX_FLOAT16)
    return tensor.to(torch.float16 if fits else torch.bfloat16)


def _compress_masks(name: str, masks: Tensor) -> dict[str, Tensor]:
    rles = coco.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    counts = [np.frombuffer(rle["counts"], dtype=np.uint8) for rle in rles]
    return {
        name: torch.from_numpy(np.concatenate(counts).copy()),
        f"{name}_lengths": torch.tensor([len(values) for values in counts]),
    }


def _decompress_masks(name: str, packed: Mapping[str, Tensor], size: Size) -> Tensor:
    counts = torch.split(packed[name], packed[f"{name}_lengths"].tolist())
    rles = [{"size": list(size), "counts": values.numpy().tobytes()} for values in counts]
    return torch.from_numpy(coco.decode(rles).transpose(2, 0, 1).astype(np.bool_))


def _geometry_to_tensor(geometry: ImageGeometry) -> Tensor:
    parts = (geometry.picture, geometry.resized, geometry.offset, geometry.canvas, geometry.grid)
    return torch.tensor(parts)


def _geometry_from_tensor(tensor: Tensor) -> ImageGeometry:
    pairs = [(int(first), int(second)) for first, second in tensor.tolist()]
    return ImageGeometry(*pairs)
