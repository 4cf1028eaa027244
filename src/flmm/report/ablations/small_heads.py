"""Small heads that learn from the same few pictures for the same few steps, to compare ways."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from flmm.data.features import PhraseFeatures
from flmm.head.checkpoint import untrained_sam
from flmm.head.model import GroundingHead, HeadConfig
from flmm.progress import unwatched
from flmm.report.ablations.map_sources import Source, Sources
from flmm.report.context import Bench, digest_of
from flmm.report.extraction import PROTOCOL, SeenPicture
from flmm.train.compression import Precision
from flmm.train.dataset import TrainingPicture
from flmm.train.feature_cache import CachedPictures, CacheKey, FeatureCache, sample_digest
from flmm.train.fit import Run, fit
from flmm.train.map_selection import best_maps, map_scores
from flmm.train.settings import TrainingSettings
from flmm.user_input import find_folder

EPOCHS, PICTURES_A_STEP, LEARNING_RATE = 4, 2, 1e-3
_CHOOSING = 32


@dataclass(frozen=True)
class Variant:
    """One way, beside the paper's."""

    group: str
    """What it is compared within."""
    name: str
    source: Source = Source.ATTENTION
    share: int = 1
    """Only one of so many maps is kept, the most useful ones."""
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
    Variant("merge of tokens", "max", Source.MOST_ATTENTION),
    Variant("maps divided by their sum", "no", normalise=False),
    Variant("input enlarged to", "32", upsample_input=32),
    Variant("input enlarged to", "16", upsample_input=16),
    Variant("maps kept", "1/2", share=2),
    Variant("maps kept", "1/4", share=4),
    Variant("maps kept", "1/8", share=8),
    Variant("maps of", "hidden-state similarity", Source.SIMILARITY),
    Variant("maps of", "vision tower's attention", Source.VISION),
)
BASELINE = VARIANTS[3]


class _Kept:
    """Training pictures with the maps that a head keeps."""

    def __init__(self, pictures: CachedPictures, config: HeadConfig) -> None:
        self._pictures = pictures
        self._config = config

    def __len__(self) -> int:
        return len(self._pictures)

    def get(self, numbers: Sequence[int]) -> list[TrainingPicture]:
        return [_with_maps(one, self._config) for one in self._pictures.get(numbers)]


def _with_maps(picture: TrainingPicture, config: HeadConfig) -> TrainingPicture:
    phrases = tuple(
        replace(phrase, attention=config.keep(phrase.attention))
        for phrase in picture.features.phrases
    )
    return replace(picture, features=replace(picture.features, phrases=phrases))


class SmallDecoders:
    """Trains the variants, going on where it was."""

    def __init__(self, bench: Bench, sources: Sources) -> None:
        self._bench = bench
        self._sources = sources
        self._cached: dict[Source, CachedPictures] = {}

    def variants(self) -> list[Variant]:
        """Those that this LMM offers the maps for."""
        return [one for one in VARIANTS if one.source in self._sources.all]

    def train(self, variant: Variant) -> GroundingHead:
        """The variant's head, ready for use."""
        bench = self._bench
        pictures = self._pictures(variant.source)
        config = self._config(variant, pictures)
        head = self._new(config)
        key = {
            "variant": repr(variant), "maps": repr(config.kept_maps),
            "budget": f"{EPOCHS}, {PICTURES_A_STEP}, {LEARNING_RATE}", **bench.key,
            "training": bench.fingerprint(bench.data.training),
        }  # fmt: skip
        out = bench.work / f"decoder-{digest_of(key)}"
        out.mkdir(parents=True, exist_ok=True)
        settings = TrainingSettings(
            lmm=bench.grounder.lmm, out=out, train=(bench.data.source,), protocol=PROTOCOL,
            epochs=EPOCHS, batch_size=PICTURES_A_STEP, micro_batch_size=PICTURES_A_STEP,
            learning_rate=LEARNING_RATE,
        )  # fmt: skip

        def watch(done: int, total: int, how: str) -> None:
            bench.watch(done, total, f"{variant.group}: {variant.name}, {how}")

        accelerator = Accelerator(cpu=bench.grounder.adapter.device.type == "cpu")
        none = CachedPictures(pictures.cache, [])
        fit(
            Run(settings, accelerator, head, _Kept(pictures, config), none,
                {}, lambda _scores, _step: None, watch)
        )  # fmt: skip
        return head.eval()

    def _config(self, variant: Variant, pictures: CachedPictures) -> HeadConfig:
        whole = replace(self._bench.eye.extractor.head.config, selector=False)
        some = pictures.get(range(min(_CHOOSING, len(pictures))))
        count = len(some[0].features.phrases[0].attention)
        kept: tuple[int, ...] | None = None if count == whole.all_maps else tuple(range(count))
        if variant.share > 1:
            kept = best_maps(map_scores(some), max(count // variant.share, 1))
        return replace(
            whole, kept_maps=kept, merge="mean", normalise=variant.normalise,
            upsample_input=variant.upsample_input, refine=variant.refined, use_mask=True,
            use_box=variant.use_box, use_text=variant.use_text,
        )  # fmt: skip

    def _new(self, config: HeadConfig) -> GroundingHead:
        grounder = self._bench.grounder
        sam = grounder.head.refiner.sam
        if config.refine:
            # The head's own SAM has learned from all prompts already.
            sam = untrained_sam(find_folder(grounder.model))
        torch.manual_seed(0)
        return GroundingHead(config, sam).to(grounder.adapter.device)

    def _pictures(self, source: Source) -> CachedPictures:
        if source in self._cached:
            return self._cached[source]
        bench = self._bench
        samples = bench.data.training
        entries = CacheKey.of(
            bench.grounder.adapter, bench.eye.extractor.head, PROTOCOL, Precision.HALF
        ).entries
        key = CacheKey({**entries, "maps": source.value, "levels": digest_of(bench.key)})
        folder = bench.work / f"features-{digest_of(dict(key.entries))}"
        cache = FeatureCache(folder, key, Precision.HALF, bench.tell, unwatched)
        digests = [sample_digest(sample) for sample in samples]
        missing = [number for number, one in enumerate(digests) if one not in cache]
        done = 0
        for first in range(0, len(missing), _A_SHARD):
            numbers = missing[first : first + _A_SHARD]
            cache.write(
                {digests[seen.number]: self._of(seen, source)
                 for seen in bench.eye.see(samples, numbers)}
            )  # fmt: skip
            done += len(numbers)
            bench.watch(done, len(missing), f"features: {source.value}")
        self._cached[source] = CachedPictures(cache, digests)
        return self._cached[source]

    def _of(self, seen: SeenPicture, source: Source) -> TrainingPicture:
        maps = self._sources.maps(source, seen)
        phrases = tuple(
            PhraseFeatures(one, phrase.hidden_states)
            for one, phrase in zip(maps, seen.features.phrases, strict=True)
        )
        features = replace(seen.features, phrases=phrases, answers=())
        return TrainingPicture(features, seen.masks, seen.ignored)


_A_SHARD = 16
