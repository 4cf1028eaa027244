"""The embedded world: drawn the same every time, masks exact, words true."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flmm.stickers.draw import draw, mention_mask, sticker
from flmm.stickers.evaluate import named_in
from flmm.stickers.kinds import BACKDROPS, GROUNDS, KINDS
from flmm.stickers.language import (
    caption,
    listing,
    referring_expressions,
    where_band,
    where_thing,
)
from flmm.stickers.questions import ask
from flmm.stickers.scene import MOST_THINGS, PLACES, Scene, Thing, draw_scene

seeds = st.integers(0, 2**32)


def test_world_is_as_large_as_promised() -> None:
    assert len(KINDS) >= 60
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert len(GROUNDS) >= 6
    assert len(BACKDROPS) >= 4
    assert all(sticker(kind).size == (64, 64) for kind in KINDS)


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_same_seed_draws_the_same_picture(seed: int) -> None:
    first, second = draw(draw_scene(seed), 96), draw(draw_scene(seed), 96)
    assert first.scene == second.scene
    np.testing.assert_array_equal(first.picture, second.picture)
    np.testing.assert_array_equal(first.owner, second.owner)


def test_different_seeds_draw_different_pictures() -> None:
    pictures = {draw(draw_scene(seed), 48).picture.tobytes() for seed in range(20)}
    assert len(pictures) == 20


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_masks_tile_the_picture_and_every_region_is_seen(seed: int) -> None:
    drawing = draw(draw_scene(seed), 192)
    masks = np.concatenate([drawing.band_masks, drawing.thing_masks])
    assert (masks.sum(0) == 1).all()
    assert 1 <= len(drawing.scene.things) <= MOST_THINGS
    assert all(mask.sum() > 100 for mask in drawing.thing_masks)


def test_mask_is_where_the_sticker_changed_the_picture() -> None:
    scene = draw_scene(5)
    without = Scene((), scene.bands, scene.texture_seed)
    changed = (draw(scene).picture != draw(without).picture).any(-1)
    masks = draw(scene).thing_masks.any(0)
    # The mask holds what is at least half covered; the half-transparent rim is changed as well.
    assert (masks & changed).sum() > 0.97 * masks.sum()
    assert (changed & ~masks).sum() < 0.12 * masks.sum()


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (0.1, 0.1, "in the upper left"), (0.5, 0.5, "in the middle"), (0.9, 0.5, "on the right"),
        (0.5, 0.99, "at the bottom"), (0.34, 0.32, "at the top"), (0.0, 1.0, "in the lower left"),
    ],
)  # fmt: skip
def test_place_is_the_ninth_that_holds_the_centre(x: float, y: float, place: str) -> None:
    assert Thing(KINDS[0], x, y, 0.3, 0, False).place == place


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_captions_name_all_that_is_there_and_nothing_else(seed: int) -> None:
    scene = draw_scene(seed)
    there = {kind.name for kind in scene.kinds} | {band.name for band in scene.bands}
    for turn in (caption(scene), listing(scene)):
        assert named_in(turn.answer) == there
        things = [index for mention in turn.mentions for index in mention.things]
        bands = [index for mention in turn.mentions for index in mention.bands]
        assert sorted(things) == list(range(len(scene.things)))
        assert sorted(bands) == list(range(len(scene.bands)))
        for mention in turn.mentions:
            words = turn.answer[mention.start : mention.end]
            names = {scene.things[index].kind.name for index in mention.things}
            names |= {scene.bands[index].name for index in mention.bands}
            assert named_in(words) == names
            assert words == words.strip()


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_referring_expressions_mean_one_thing_only(seed: int) -> None:
    scene = draw_scene(seed)
    found = [set(referring_expressions(scene, index)) for index in range(len(scene.things))]
    for index, expressions in enumerate(found):
        others = set().union(*found[:index], *found[index + 1 :])
        assert not expressions & others


def test_small_and_large_follow_from_the_sizes() -> None:
    cat = KINDS[0]
    small = Thing(cat, 0.2, 0.5, 0.22, 0, False)
    large = Thing(cat, 0.8, 0.5, 0.4, 0, False)
    scene = Scene((small, large), draw_scene(0).bands, 0)
    assert "the small cat" in referring_expressions(scene, 0)
    assert "the left cat" in referring_expressions(scene, 0)
    assert "the large cat" in referring_expressions(scene, 1)
    assert "the cat" not in referring_expressions(scene, 0)


@settings(max_examples=80, deadline=None)
@given(seeds)
def test_answers_follow_from_the_facts(seed: int) -> None:
    scene = draw_scene(seed)
    turn = ask(scene, np.random.default_rng(seed))
    kinds = {kind.name for kind in scene.kinds}
    bands = {band.name for band in scene.bands}
    asked = named_in(turn.question)
    if turn.task == "is there":
        assert turn.answer.startswith("Yes" if asked <= kinds | bands else "No")
    if turn.task == "how many" and asked:
        (name,) = asked
        count = sum(thing.kind.name == name for thing in scene.things)
        word = ("no", "one", "two", "three")[count]
        assert re.search(rf"\b{word}\b", turn.answer)
    if turn.task == "which":
        assert named_in(turn.answer) < asked
    for mention in turn.mentions:
        assert 0 <= mention.start < mention.end <= len(turn.answer)


def test_where_answers_say_the_place_or_what_is_behind() -> None:
    scene = draw_scene(2)
    thing = scene.things[0]
    expressions = referring_expressions(scene, 0)
    plain = where_thing(scene, 0, expressions[0])
    assert plain.answer == f"The {thing.kind.name} is {thing.place}."
    placed = where_thing(scene, 0, f"the {thing.kind.name} {thing.place}")
    assert " is in front of " in placed.answer
    assert where_band(scene, 0).answer == f"The {scene.bands[0].name} is at the top."


def test_mention_mask_is_the_union_of_what_the_words_mean() -> None:
    drawing = draw(draw_scene(3), 96)
    turn = caption(drawing.scene)
    whole = sum(mention_mask(drawing, mention).sum() for mention in turn.mentions)
    assert whole == 96 * 96


def test_names_are_found_once_each_and_the_longest_first() -> None:
    text = "Two cats and a soccer ball on a wood floor; no bus, three strawberries."
    assert named_in(text) == {"cat", "soccer ball", "wood floor", "bus", "strawberry"}
    assert named_in("category scattered") == set()
    assert all(place == place.strip() for row in PLACES for place in row)
