"""The time of training: flmm with and without its cache, and the paper authors' method.

Letters: ``P`` phrases, ``h w`` image-token grid.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import SamConfig, SamModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from flmm.attention.eager import eager_attention
from flmm.attention.merge import merge_token_maps
from flmm.attention.spans import make_phrase_span
from flmm.bench.models import HALF_BILLION, SMALL, LLMSize, build_random_lmm
from flmm.data.exchanges import ReferringProtocol
from flmm.data.features import FeatureExtractor
from flmm.data.readers.sticker_scenes import read_sticker_scenes
from flmm.data.sample import Sample
from flmm.data.sources import StickersSource
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.pictures.geometry import crop_to_picture
from flmm.progress import no_progress
from flmm.segmenters.sam import SamSegmenter
from flmm.train.batch_loss import sum_masked_loss
from flmm.train.dataset import TrainingDataset, UncachedDataset, build_targets
from flmm.train.feature_cache import (
    CachedDataset,
    CacheKey,
    FeatureCache,
    digest_sample,
    fill_cache,
)
from flmm.train.fit import TrainingRun, fit
from flmm.train.settings import CachePrecision, TrainingSettings

TrainingMethod = Literal["authors", "uncached", "cached"]
"""The authors' (eager full attention, one picture a step, one SAM decoder call a phrase); flmm
without a cache; flmm with a cache, including the time to fill it."""


def build_large_sam() -> SamModel:
    """Return a random SAM of the paper's size, ViT-L."""
    vision = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_dim": 4096,
        "global_attn_indexes": [5, 11, 17, 23],
    }  # fmt: skip
    return SamModel(SamConfig(vision_config=vision))


def build_small_sam() -> SamModel:
    """Return a tiny random SAM for 128-pixel pictures, to test the benchmark itself."""
    side = 128
    vision = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32,
        "global_attn_indexes": [], "image_size": side,
    }  # fmt: skip
    prompts = {"image_size": side, "image_embedding_size": side // 16}
    return SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts))


@dataclass(frozen=True)
class TrainingSize:
    """The sizes of a run's models."""

    llm: LLMSize
    sam: Callable[[], SamModel]
    base_channels: int


REAL_SIZES = TrainingSize(HALF_BILLION, build_large_sam, 64)
SMALL_SIZES = TrainingSize(SMALL, build_small_sam, 4)


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one method."""

    way: TrainingMethod
    seconds: float
    ratio: float
    """Seconds ÷ the cached method's seconds in the same run."""


@dataclass(frozen=True)
class _BenchmarkInputs:
    """Inputs that all methods share."""

    folder: Path
    adapter: LMMAdapter
    sam: SamModel
    samples: Sequence[Sample]
    settings: TrainingSettings
    base_channels: int

    def build_head(self) -> GroundingHead:
        adapter = self.adapter
        config = HeadConfig(
            adapter.layers, adapter.heads, adapter.hidden_size, base_channels=self.base_channels
        )
        torch.manual_seed(0)
        return GroundingHead(config, SamSegmenter(self.sam)).to(adapter.device)

    def make_dataset(self, head: GroundingHead) -> UncachedDataset:
        extractor = FeatureExtractor(self.adapter, head.config, head.refiner)
        return UncachedDataset(self.samples, extractor, ReferringProtocol.TOGETHER, print)


def measure(
    size: TrainingSize,
    pictures: int,
    epochs: int,
    device: str,
    on_message: Callable[[str], None],
) -> list[TrainingCost]:
    """Time each method on the captions of some sticker scenes; ``on_message`` names each."""
    on_message("making a random LMM and SAM")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapter = build_random_lmm(576, size.llm, torch.float32)
        adapter.model.to(torch.device(device))  # type: ignore[arg-type]
        samples = [
            replace(sample, texts=tuple(text for text in sample.texts if text.kind == "caption"))
            for sample in read_sticker_scenes(folder / "scenes", pictures, 0)
        ]
        source = StickersSource(name="stickers", folder=folder, scenes=pictures, first_scene=0)
        settings = TrainingSettings(
            lmm="random", out=folder, train=(source,), epochs=epochs, batch_size=4,
            device=device,
        )  # fmt: skip
        bench = _BenchmarkInputs(folder, adapter, size.sam(), samples, settings, size.base_channels)
        methods: dict[TrainingMethod, Callable[[_BenchmarkInputs], None]] = {
            "authors": _train_like_authors, "uncached": _train_uncached, "cached": _train_cached
        }  # fmt: skip
        seconds: dict[TrainingMethod, float] = {}
        for method, run in methods.items():
            on_message(f"{epochs} epochs of {pictures} pictures, {method}")
            start = time.perf_counter()
            run(bench)
            if device != "cpu":
                torch.cuda.synchronize(device)
            seconds[method] = time.perf_counter() - start
    return [
        TrainingCost(method, took, took / seconds["cached"]) for method, took in seconds.items()
    ]


def _run_training(
    bench: _BenchmarkInputs, head: GroundingHead, dataset: TrainingDataset, out: str
) -> None:
    settings = bench.settings.model_copy(update={"out": bench.folder / out})
    settings.out.mkdir()
    accelerator = Accelerator(cpu=settings.device == "cpu")
    no_validation_data = UncachedDataset(
        [],
        FeatureExtractor(bench.adapter, head.config, head.refiner),
        ReferringProtocol.TOGETHER,
        print,
    )
    fit(
        TrainingRun(
            settings,
            accelerator,
            head,
            dataset,
            no_validation_data,
            {},
            lambda _scores, _step: None,
            no_progress,
        )
    )


def _train_uncached(bench: _BenchmarkInputs) -> None:
    head = bench.build_head()
    _run_training(bench, head, bench.make_dataset(head), "uncached")


def _train_cached(bench: _BenchmarkInputs) -> None:
    head = bench.build_head()
    dataset = bench.make_dataset(head)
    key = CacheKey.build(dataset.extractor, ReferringProtocol.TOGETHER, CachePrecision.FLOAT16)
    cache = FeatureCache(bench.folder / "cache", key, CachePrecision.FLOAT16, print, no_progress)
    for _ in fill_cache(cache, dataset, range(len(dataset))):
        pass
    digests = [digest_sample(sample) for sample in bench.samples]
    _run_training(bench, head, CachedDataset(cache, digests), "cached")


def _train_like_authors(bench: _BenchmarkInputs) -> None:
    head = bench.build_head()
    dataset = bench.make_dataset(head)
    optimizer = AdamW([weight for weight in head.parameters() if weight.requires_grad], 1e-4)
    for _ in range(bench.settings.epochs):
        for index in range(len(bench.samples)):
            _compute_picture_loss(bench, head, dataset, index).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def _compute_picture_loss(
    bench: _BenchmarkInputs, head: GroundingHead, dataset: UncachedDataset, index: int
) -> Tensor:
    """Return the loss of one picture's caption, computed like the authors."""
    loaded = dataset.load_sample(index)
    assert loaded is not None
    _, picture_exchanges = loaded
    (exchange,) = picture_exchanges.exchanges
    adapter = bench.adapter
    prompt = adapter.build_prompt(picture_exchanges.picture, exchange.question, exchange.answer)
    assert prompt.answer_offsets is not None
    assert exchange.answer is not None
    with torch.no_grad(), eager_attention(adapter.text_model):
        forward = cast(Callable[..., BaseModelOutputWithPast], adapter.model.base_model)
        output = forward(
            **adapter.collate([prompt], keep_pixels=True).model_inputs, use_cache=False,
            output_attentions=True, output_hidden_states=True,
        )  # fmt: skip
        embedding = head.refiner.encode(np.asarray(picture_exchanges.picture))
    assert output.attentions is not None
    assert output.hidden_states is not None
    columns = prompt.image_token_positions.to(adapter.device)
    (view,) = prompt.picture_views[0]
    maps, states = [], []
    for start, end in exchange.spans:
        span = make_phrase_span(exchange.answer, start, end, prompt.answer_offsets)
        rows = [prompt.answer_start + token for token in span.tokens]
        attention = torch.stack([layer[0][:, rows][..., columns] for layer in output.attentions])
        grid = attention.reshape(*attention.shape[:-1], *view.geometry.grid)
        maps.append(merge_token_maps(grid))
        states.append(torch.stack([layer[0, rows] for layer in output.hidden_states[1:]]))
    decoded = crop_to_picture(head.mask_decoder(torch.stack(maps))[:, 0], view.geometry)
    prompts = head.text_prompts(states)
    refined = torch.cat(
        [
            head.refiner(
                decoded[i : i + 1], prompts[i : i + 1], view.geometry, embedding, None, "low"
            )
            for i in range(len(prompts))
        ]
    )
    masks, ignored = (target.to(decoded) for target in build_targets(*loaded))
    loss = sum_masked_loss(decoded, masks, ignored) + sum_masked_loss(refined, masks, ignored)
    return loss / len(prompts)
