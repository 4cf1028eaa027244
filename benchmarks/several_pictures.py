"""In which of two pictures a phrase is found: by attention, or by scores of reading each alone.

    python benchmarks/several_pictures.py [PAIRS]

Two scenes of the embedded model's world, and the caption of one of them as the answer about both.
Counted are its phrases that the other's caption lacks.
"""

import sys
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.attention.spans import make_phrase_span
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_texts
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS
from flmm.stickers.draw import draw, mention_mask
from flmm.stickers.language import caption_turn
from flmm.stickers.scene import generate_scene
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan

_FIRST_SEED = 30_000_000


def predict(grounder: Grounder, picture: Image.Image, span: PhraseSpan, trace: Trace) -> Phrase:
    predictor = grounder.pipeline.mask_predictor
    traced = predictor.add_references(picture, [(span, trace)])
    return predictor.predict(picture, traced, DEFAULT_MASK_OPTIONS, Stopwatch())[0]


@torch.no_grad()
def measure(grounder: Grounder, pairs: int) -> dict[str, list[list[float]]]:
    """Return for each picture and way one entry a phrase: found right, IoU in the right picture."""
    adapter = grounder.adapter
    seen: dict[str, list[list[float]]] = {}
    for first_seed in range(_FIRST_SEED, _FIRST_SEED + 2 * pairs, 2):
        scenes = [generate_scene(first_seed), generate_scene(first_seed + 1)]
        drawings = [draw(scene) for scene in scenes]
        pictures = [Image.fromarray(drawing.picture) for drawing in drawings]
        for right, name in enumerate(("first", "second")):
            turn = caption_turn(scenes[right])
            other = caption_turn(scenes[1 - right]).answer
            together = adapter.build_prompt(pictures, turn.question, turn.answer)
            alone = [adapter.build_prompt(each, turn.question, turn.answer) for each in pictures]
            both, *each_alone = trace_texts(adapter, [together, *alone])
            for mention in turn.mentions:
                if turn.answer[mention.start : mention.end] in other:
                    continue
                assert together.answer_offsets is not None
                span = make_phrase_span(
                    turn.answer, mention.start, mention.end, together.answer_offsets
                )
                truth = mention_mask(drawings[right], mention)
                sums = [
                    float(each.token_maps(span.tokens).sum()) for each in both.picture_attentions
                ]
                in_talk = replace(both, picture_attentions=(both.picture_attentions[right],))
                scored = [
                    predict(grounder, *pair)
                    for pair in (
                        (pictures[0], span, each_alone[0]),
                        (pictures[1], span, each_alone[1]),
                    )
                ]
                ways = {
                    "attention": (
                        sums[right] > sums[1 - right],
                        predict(grounder, pictures[right], span, in_talk),
                    ),
                    "reading each alone": (
                        scored[right].score > scored[1 - right].score,
                        scored[right],
                    ),
                }
                for way, (found, phrase) in ways.items():
                    overlap = (phrase.mask & truth).sum() / (phrase.mask | truth).sum()
                    seen.setdefault(f"{name} picture, {way}", []).append([found, overlap])
    return seen


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for name, rows in measure(Grounder.from_pretrained(), pairs).items():
        found, overlap = np.mean(rows, axis=0)
        print(f"{name}: {len(rows)} phrases, {found:.1%} in the right one, mean IoU {overlap:.2f}")


if __name__ == "__main__":
    main()
