"""Small heads trained on the same few pictures for the same few steps, to compare variants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from flmm.data.features import PhraseFeatures
from flmm.head.checkpoint import load_untrained_segmenter
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.progress import no_progress
from flmm.report.ablations.map_sources import MapSource, MapSources
from flmm.report.context import ReportContext, key_digest
from flmm.report.extraction import PROTOCOL, ExtractedPicture
from flmm.train.dataset import TrainingExample
from flmm.train.feature_cache import CachedDataset, CacheKey, FeatureCache, digest_sample
from flmm.train.fit import TrainingRun, fit
from flmm.train.map_selection import score_maps, select_best_maps
from flmm.train.settings import CachePrecision, TrainingSettings

EPOCHS, BATCH_SIZE, LEARNING_RATE = 4, 2, 1e-3
_MAP_CHOICE_PICTURES = 32


@dataclass(frozen=True)
class Variant:
    """One variant of the head."""

    group: str
    """Name of the comparison."""
    name: str
    map_source: MapSource = MapSource.ATTENTION
    map_reduction: int = 1
    """Keep the most useful of the maps, one of ``map_reduction``."""
    normalise: bool = True
    upsample_input: int = 64
    refined: bool = False
    use_box: bool = True
    use_text: bool = True


VARIANTS = (
    Variant("refiner's prompts", "mask", refined=True, use_box=False, use_text=False),
    Variant("refiner's prompts", "mask + box", refined=True, use_text=False),
    Variant("refiner's prompts", "mask + box + text", refined=True),
    Variant("baseline", "mask decoder"),
    Variant("merge of tokens", "max", MapSource.MAX_ATTENTION),
    Variant("maps divided by their sum", "no", normalise=False),
    Variant("input enlarged to", "32", upsample_input=32),
    Variant("input enlarged to", "not enlarged", upsample_input=1),
    Variant("maps kept", "1/2", map_reduction=2),
    Variant("maps kept", "1/4", map_reduction=4),
    Variant("maps kept", "1/8", map_reduction=8),
    Variant("maps of", "hidden-state similarity", MapSource.SIMILARITY),
    Variant("maps of", "vision tower's attention", MapSource.VISION_TOWER),
)
BASELINE = VARIANTS[3]


class _DatasetWithSelectedMaps:
    """Training pictures with the maps that a head keeps."""

    def __init__(self, pictures: CachedDataset, config: HeadConfig) -> None:
        self._pictures = pictures
        self._config = config

    def __len__(self) -> int:
        return len(self._pictures)

    def get(self, indices: Sequence[int]) -> list[TrainingExample]:
        return [_select_maps(picture, self._config) for picture in self._pictures.get(indices)]


def _select_maps(picture: TrainingExample, config: HeadConfig) -> TrainingExample:
    phrases = tuple(
        replace(phrase, attention=config.select_maps(phrase.attention))
        for phrase in picture.features.phrases
    )
    return replace(picture, features=replace(picture.features, phrases=phrases))


class SmallHeadTrainer:
    """Trains the variants; an interrupted training is resumed."""

    def __init__(self, context: ReportContext, map_sources: MapSources) -> None:
        self._context = context
        self._map_sources = map_sources
        self._pictures_by_source: dict[MapSource, CachedDataset] = {}

    def available_variants(self) -> list[Variant]:
        """Return the variants whose maps this LMM has."""
        available = self._map_sources.available
        return [variant for variant in VARIANTS if variant.map_source in available]

    def train(self, variant: Variant) -> GroundingHead:
        """Train the variant's head; return it in evaluation mode."""
        context = self._context
        pictures = self._training_pictures(variant.map_source)
        config = self._head_config(variant, pictures)
        head = self._build_head(config)
        key = {
            "variant": repr(variant), "maps": repr(config.kept_maps),
            "budget": f"{EPOCHS}, {BATCH_SIZE}, {LEARNING_RATE}", **context.cache_key,
            "training": context.fingerprint_samples(context.data.training),
        }  # fmt: skip
        out = context.work_folder / f"decoder-{key_digest(key)}"
        out.mkdir(parents=True, exist_ok=True)
        settings = TrainingSettings(
            lmm=context.grounder.lmm, out=out, train=(context.data.source,), protocol=PROTOCOL,
            epochs=EPOCHS, batch_size=BATCH_SIZE, micro_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
        )  # fmt: skip

        def on_progress(done: int, total: int, how: str) -> None:
            context.on_progress(done, total, f"{variant.group}: {variant.name}, {how}")

        accelerator = Accelerator(cpu=context.grounder.adapter.device.type == "cpu")
        no_validation = CachedDataset(pictures.cache, [])
        fit(
            TrainingRun(settings, accelerator, head,
                _DatasetWithSelectedMaps(pictures, config), no_validation,
                {}, lambda _scores, _step: None, on_progress)
        )  # fmt: skip
        return head.eval()

    def _head_config(self, variant: Variant, pictures: CachedDataset) -> HeadConfig:
        extractor = self._context.picture_extractor.feature_extractor
        base = replace(extractor.config, selector=False)
        examples = pictures.get(range(min(_MAP_CHOICE_PICTURES, len(pictures))))
        count = len(examples[0].features.phrases[0].attention)
        kept: tuple[int, ...] | None = None if count == base.num_lmm_maps else tuple(range(count))
        if variant.map_reduction > 1:
            kept = select_best_maps(score_maps(examples), max(count // variant.map_reduction, 1))
        return replace(
            base, kept_maps=kept, merge="mean", normalise=variant.normalise,
            upsample_input=variant.upsample_input, refine=variant.refined, use_mask=True,
            use_box=variant.use_box, use_text=variant.use_text,
        )  # fmt: skip

    def _build_head(self, config: HeadConfig) -> GroundingHead:
        grounder = self._context.grounder
        segmenter = self._context.require_head().refiner.segmenter
        if config.refine:
            # The head's SAM was already trained with all prompts.
            segmenter = load_untrained_segmenter(grounder.model)
        torch.manual_seed(0)
        return GroundingHead(config, segmenter).to(grounder.adapter.device)

    def _training_pictures(self, source: MapSource) -> CachedDataset:
        if source in self._pictures_by_source:
            return self._pictures_by_source[source]
        context = self._context
        samples = context.data.training
        entries = CacheKey.build(
            context.picture_extractor.feature_extractor, PROTOCOL, CachePrecision.FLOAT16
        ).entries
        key = CacheKey({**entries, "maps": source.value, "levels": key_digest(context.cache_key)})
        folder = context.work_folder / f"features-{key_digest(dict(key.entries))}"
        cache = FeatureCache(folder, key, CachePrecision.FLOAT16, context.on_message, no_progress)
        digests = [digest_sample(sample) for sample in samples]
        missing = [index for index, digest in enumerate(digests) if digest not in cache]
        done = 0
        for first in range(0, len(missing), _PICTURES_PER_SHARD):
            indices = missing[first : first + _PICTURES_PER_SHARD]
            cache.write_shard(
                {digests[extracted.index]: self._training_example(extracted, source)
                 for extracted in context.picture_extractor.extract(samples, indices)}
            )  # fmt: skip
            done += len(indices)
            context.on_progress(done, len(missing), f"features: {source.value}")
        self._pictures_by_source[source] = CachedDataset(cache, digests)
        return self._pictures_by_source[source]

    def _training_example(self, extracted: ExtractedPicture, source: MapSource) -> TrainingExample:
        maps = self._map_sources.get_maps(source, extracted)
        phrases = tuple(
            PhraseFeatures(phrase_maps, phrase.hidden_states)
            for phrase_maps, phrase in zip(maps, extracted.features.phrases, strict=True)
        )
        features = replace(extracted.features, phrases=phrases, answers=())
        return TrainingExample(features, extracted.masks, extracted.ignored_masks)


_PICTURES_PER_SHARD = 16
