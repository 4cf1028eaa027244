"""Sticker scenes are told apart from photographs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

import flmm
from flmm.embedded_model.domain import is_sticker_scene
from flmm.pictures.reading import read_picture
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.scene import generate_scene
from flmm.user_input import is_embedded

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]


def draw_scene(number: int, size: int = 384) -> Image.Image:
    return Image.fromarray(draw(generate_scene(EVALUATION_SEED + number), size).picture)


def test_no_held_out_scene_is_taken_for_another_picture() -> None:
    assert [number for number in range(200) if not is_sticker_scene(draw_scene(number))] == []


@pytest.mark.parametrize("size", [128, 768])
def test_scenes_of_other_sizes_and_as_jpeg(size: int) -> None:
    for number in range(200, 210):
        scene = draw_scene(number, size)
        assert is_sticker_scene(scene)
        file = io.BytesIO()
        scene.save(file, "JPEG", quality=75)
        assert is_sticker_scene(read_picture(file.getvalue()))


def test_bundled_pictures_are_scenes() -> None:
    bundled = sorted((Path(flmm.__file__).parent / "assets" / "pictures").glob("*.png"))
    assert len(bundled) == 4
    assert all(is_sticker_scene(read_picture(file)) for file in bundled)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_photographs_are_no_scenes(photograph: Image.Image) -> None:
    assert not is_sticker_scene(photograph)
    assert not is_sticker_scene(ImageOps.fit(photograph, (384, 384)))


def test_noise_is_no_scene() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert not is_sticker_scene(Image.fromarray(noise))


def test_embedded_names() -> None:
    assert is_embedded("embedded:lmm")
    assert not is_embedded("someone/embedded")
