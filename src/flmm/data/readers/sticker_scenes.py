"""The embedded world as a data set: scenes drawn once, with captions and referring expressions."""

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
    """Scenes ``first_scene`` … ``first_scene + scenes - 1``, always the same ones.

    Each has its caption as the recipe of the embedded head asks for it, and as expressions all
    that mean one thing, or the stuff, with the question that the recipe asks there. (What the
    recipe's answers say after the expression, the frozen LMM has not read yet when it reads the
    expression.)

    Args:
        folder: where ``{scene}.png`` and ``{scene}-regions-{WORLD_VERSION}.png`` are, or are drawn
            to where they are not yet. A run that was cut off goes on where it was.
        scenes: how many.
        first_scene: the seed of the first. The embedded model was trained on those from 0 on; from
            ``flmm.stickers.dataset.EVALUATION_SEED`` on, training never used any.

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
    # The regions are written last: where they are, the picture is.
    if not regions.exists():
        drawing = draw(scene)
        colours = np.zeros((*drawing.region_ids.shape, 3), dtype=np.uint8)
        colours[..., 0] = drawing.region_ids
        write_file_atomically(picture, _png(drawing.picture))
        write_file_atomically(regions, _png(colours))
    told = caption_turn(scene)
    texts = [GroundedText(f"{seed}-caption", "caption", told.answer,
                          _phrases(scene, told, regions), told.question)]  # fmt: skip
    turns = [
        thing_place_turn(scene, index, expression)
        for index in range(len(scene.things))
        for expression in referring_expressions(scene, index)
    ]
    turns += [band_place_turn(scene, index) for index in range(len(scene.bands))]
    for number, turn in enumerate(turns):
        # The first thing that such an answer says is the expression.
        phrase = _phrases(scene, turn, regions)[0]
        said = turn.answer[: phrase.end]
        texts.append(GroundedText(f"{seed}-{number}", "expression", said, (phrase,), turn.question))
    return Sample(picture, tuple(texts))


def _phrases(scene: Scene, turn: Turn, regions: Path) -> tuple[GroundedPhrase, ...]:
    return tuple(_phrase(scene, mention, regions) for mention in turn.mentions)


def _phrase(scene: Scene, mention: Mention, regions: Path) -> GroundedPhrase:
    # As `Drawing.owner` numbers them: the bands first, then the things.
    owners = [*mention.bands, *(len(scene.bands) + thing for thing in mention.things)]
    return GroundedPhrase(
        mention.start,
        mention.end,
        tuple(PanopticRegion(regions, owner) for owner in owners),
        plural=len(owners) > 1,
        is_thing=bool(mention.things),
    )


def _png(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()
