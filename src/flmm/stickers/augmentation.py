"""Augmentation of training pictures, so that models do not depend on one artwork's colours.

Shapes and positions stay those of the scene.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

FloatArray = NDArray[np.float32]
RandomGenerator = np.random.Generator

# Weights of red, green and blue in brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _colour_matrix(random: RandomGenerator, max_hue_rotation: float) -> FloatArray:
    """Return a random hue rotation of at most `max_hue_rotation` radians times a random saturation.

    A (3, 3) matrix.
    """
    angle = random.uniform(-max_hue_rotation, max_hue_rotation)
    cosine, sine = np.cos(angle), np.sin(angle)
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = cosine * np.eye(3) + sine * cross + (1 - cosine) * axis
    saturation = random.uniform(0.5, 1.4)
    grey = np.tile(_LUMA, (3, 1))
    return np.asarray((saturation * np.eye(3) + (1 - saturation) * grey) @ rotation, np.float32)


def augment_sticker(image: Image.Image, random: RandomGenerator) -> Image.Image:
    """Return an RGBA sticker in other colours, now and then posterised or with coarser shapes."""
    pixels = np.asarray(image, dtype=np.float32)
    colours = pixels[..., :3]
    chance = random.random()
    if chance < 0.9:
        colours = colours @ _colour_matrix(random, 3.1 if chance < 0.12 else 0.35).T
        contrast, light = random.uniform(0.7, 1.25), random.uniform(-25, 25)
        colours = (colours - 128) * np.float32(contrast) + np.float32(128 + light)
    if random.random() < 0.25:
        step = np.float32(random.uniform(40, 90))
        colours = np.round(colours / step) * step
    augmented = np.concatenate([np.clip(colours, 0, 255), pixels[..., 3:]], -1).astype(np.uint8)
    result = Image.fromarray(augmented)
    if random.random() < 0.2:
        result = result.convert("RGBa").filter(ImageFilter.ModeFilter(5)).convert("RGBA")
    return result


def augment_background(canvas: FloatArray, random: RandomGenerator) -> FloatArray:
    """Return the background, (H, W, 3), with random patches of other light and colour."""
    size = canvas.shape[0]
    strength = random.uniform(0, 14)
    for _ in range(2):
        cells = int(random.integers(3, 24))
        coarse = random.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        if random.random() < 0.6:
            coarse[:] = coarse.mean(-1, keepdims=True) * 1.5
        smooth = [
            Image.fromarray(coarse[..., channel]).resize((size, size), Image.Resampling.BILINEAR)
            for channel in range(3)
        ]
        canvas = canvas + np.stack([np.asarray(image) for image in smooth], -1)
    return canvas


def augment_picture(canvas: FloatArray, random: RandomGenerator) -> FloatArray:
    """Return the picture, (H, W, 3), with random blur, contrast, light and grain."""
    if random.random() < 0.3:
        radius = random.uniform(0.3, 1.2) * canvas.shape[0] / 384
        whole = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
        canvas = np.asarray(whole.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    canvas = (canvas - 128) * np.float32(random.uniform(0.85, 1.15)) + 128
    canvas = canvas + np.float32(random.uniform(-12, 12))
    if random.random() < 0.5:
        grain = random.standard_normal(canvas.shape, dtype=np.float32)
        canvas = canvas + grain * np.float32(random.uniform(0, 7))
    return canvas
