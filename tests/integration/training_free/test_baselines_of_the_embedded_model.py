"""The baselines' maps point at what phrases mean, on the embedded LMM."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flmm.attention.spans import make_phrase_span
from flmm.attention.tracing import trace_texts
from flmm.embedded_model.protocols import TextProtocol, caption_protocol, expression_protocol
from flmm.grounding.loading import load_lmm_alone
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import Placement
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw, mention_mask
from flmm.stickers.scene import generate_scene
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.traced_text import TracedText

NUM_CAPTIONED_SCENES, NUM_REFERRED_SCENES = 10, 4
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def adapter() -> LMMAdapter:
    return load_lmm_alone(None, None, Placement(device="cpu")).adapter


@pytest.fixture(scope="module")
def captions(adapter: LMMAdapter) -> list[tuple[TracedText, list[Mask]]]:
    """Return captions, and the mask of each phrase that means things."""
    return _trace_scenes(adapter, NUM_CAPTIONED_SCENES, caption_protocol)


@pytest.fixture(scope="module")
def expressions(adapter: LMMAdapter) -> list[tuple[TracedText, list[Mask]]]:
    """Return referring expressions, and the mask of each that means a thing."""
    return _trace_scenes(adapter, NUM_REFERRED_SCENES, expression_protocol)


def _trace_scenes(
    adapter: LMMAdapter, num_scenes: int, protocol: TextProtocol
) -> list[tuple[TracedText, list[Mask]]]:
    traced = []
    for index in range(num_scenes):
        drawing = draw(generate_scene(EVALUATION_SEED + index))
        picture = Image.fromarray(drawing.picture)
        for scene_turn in protocol(drawing, index):
            turn = scene_turn.turn
            prompt = adapter.build_prompt(picture, turn.question, turn.answer)
            (trace,) = trace_texts(adapter, [prompt])
            offsets = prompt.answer_offsets
            assert offsets is not None
            mentions = [mention for mention in turn.mentions if mention.things]
            spans = tuple(
                make_phrase_span(turn.answer, mention.start, mention.end, offsets)
                for mention in mentions
            )
            masks = [mention_mask(drawing, mention) for mention in mentions]
            traced.append((TracedText(picture, prompt, trace, spans), masks))
    return [(text, masks) for text, masks in traced if masks]


def _count_hits(
    adapter: LMMAdapter, name: str, texts: Sequence[tuple[TracedText, list[Mask]]]
) -> tuple[float, float]:
    """Return the share of phrases at whose maximum the named thing is, and that of chance."""
    by_text = BASELINES[name]().compute_maps(adapter, [text for text, _ in texts])
    hits, areas = [], []
    for (text, masks), maps in zip(texts, by_text, strict=True):
        enlarged = resize_maps_to_picture(maps, text.geometry, text.geometry.picture)
        for on_picture, mask in zip(enlarged, masks, strict=True):
            hits.append(mask.flatten()[int(on_picture.argmax())])
            areas.append(mask.mean())
    return float(np.mean(hits)), float(np.mean(areas))


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("attend-and-segment", 0.7),
        ("localization-heads", 0.3),
        ("decaf", 0.7),
        ("token-activation-maps", 0.12),
    ],
)
def test_maps_of_captions_point_at_the_named_things(
    adapter: LMMAdapter, captions: list[tuple[TracedText, list[Mask]]], name: str, share: float
) -> None:
    hits, chance = _count_hits(adapter, name, captions)
    assert hits > max(share, 2 * chance)


@pytest.mark.parametrize("name", ["attend-and-segment", "decaf"])
def test_maps_of_expressions_point_at_the_thing_that_is_meant(
    adapter: LMMAdapter, expressions: list[tuple[TracedText, list[Mask]]], name: str
) -> None:
    hits, chance = _count_hits(adapter, name, expressions)
    assert hits > max(0.4, 2 * chance)
