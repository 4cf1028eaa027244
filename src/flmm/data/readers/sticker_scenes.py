"""Sticker scenes as a data set: drawn once, with captions and referring expressions."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from flmm.atomic_write import write_file_atomically
from flmm.data.sample import GroundedPhrase, GroundedText, PanopticRegion, Sample
from flmm.errors import InputError
from flmm.stickers.dataset import SCENE_VERSION
from flmm.stickers.draw import draw
from flmm.stickers.language import (
    Mention,
    Turn,
    band_place_turn,
    caption_turn,
    referring_expressions,
    thing_place_turn,
)
from flmm.stickers.scene import Scene, generate_scene


def read_sticker_scenes(folder: Path, scenes: int, first_scene: int) -> list[Sample]:
    """Return the scenes of seeds ``first_scene`` to ``first_scene + scenes - 1``, deterministic.

    Each has its caption, with the question of the embedded head's recipe, and all expressions
    that mean one thing or one region of stuff, with the recipe's question too. (The recipe's
    answers go on after the expression; the LMM is causal, so that text does not change what is
    recorded of the expression.)

    Args:
        folder: of ``{scene}.png`` and ``{scene}-regions-{SCENE_VERSION}.png``; missing ones are
            drawn, so an interrupted run continues.
        scenes: how many.
        first_scene: the seed of the first. The embedded model was trained on scenes from 0 on;
            those from ``flmm.stickers.dataset.EVALUATION_SEED`` on were never trained on.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {str(folder)!r} ({error.strerror}); choose another"
        ) from error
    return [_sample(folder, seed) for seed in range(first_scene, first_scene + scenes)]


def _sample(folder: Path, seed: int) -> Sample:
    scene = generate_scene(seed)
    picture, regions = folder / f"{seed}.png", folder / f"{seed}-regions-{SCENE_VERSION}.png"
    # The regions are written last: if they exist, the picture does.
    if not regions.exists():
        drawing = draw(scene)
        colours = np.zeros((*drawing.region_ids.shape, 3), dtype=np.uint8)
        colours[..., 0] = drawing.region_ids
        write_file_atomically(picture, _png(drawing.picture))
        write_file_atomically(regions, _png(colours))
    caption = caption_turn(scene)
    texts = [GroundedText(f"{seed}-caption", "caption", caption.answer,
                          _phrases(scene, caption, regions), caption.question)]  # fmt: skip
    turns = [
        thing_place_turn(scene, index, expression)
        for index in range(len(scene.things))
        for expression in referring_expressions(scene, index)
    ]
    turns += [band_place_turn(scene, index) for index in range(len(scene.bands))]
    for number, turn in enumerate(turns):
        # These answers begin with the expression.
        phrase = _phrases(scene, turn, regions)[0]
        expression = turn.answer[: phrase.end]
        texts.append(
            GroundedText(f"{seed}-{number}", "expression", expression, (phrase,), turn.question)
        )
    return Sample(picture, tuple(texts))


def _phrases(scene: Scene, turn: Turn, regions: Path) -> tuple[GroundedPhrase, ...]:
    return tuple(_phrase(scene, mention, regions) for mention in turn.mentions)


def _phrase(scene: Scene, mention: Mention, regions: Path) -> GroundedPhrase:
    # As in `Drawing.region_ids`: the bands first, then the things.
    region_ids = [*mention.bands, *(len(scene.bands) + thing for thing in mention.things)]
    return GroundedPhrase(
        mention.start,
        mention.end,
        tuple(PanopticRegion(regions, region) for region in region_ids),
        plural=len(region_ids) > 1,
        is_thing=bool(mention.things),
    )


def _png(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()
