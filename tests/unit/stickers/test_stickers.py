"""The embedded world: drawn the same every time, masks exact, words true."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from flmm.embedded.evaluate_words import find_names
from flmm.embedded.evaluation_settings import (
    DEFAULT_SETTING,
    LARGER_SETTING,
    artwork_setting,
    photograph_setting,
)
from flmm.embedded.protocols import absent_protocol
from flmm.errors import InputError
from flmm.stickers.draw import DrawingStyle, draw, load_sticker, mention_mask
from flmm.stickers.kinds import BACKDROPS, GROUNDS, KINDS, STICKER_FOLDER
from flmm.stickers.language import (
    band_place_turn,
    caption_turn,
    list_turn,
    referring_expressions,
    thing_place_turn,
)
from flmm.stickers.questions import ask_random_question, ask_tag_number, generate_conversation
from flmm.stickers.scene import MAX_THINGS, PLACES, Scene, Thing, generate_scene

seeds = st.integers(0, 2**32)


def test_world_is_as_large_as_promised() -> None:
    assert len(KINDS) >= 120
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert len(GROUNDS) >= 6
    assert len(BACKDROPS) >= 4
    assert all(load_sticker(kind).size == (64, 64) for kind in KINDS)


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_same_seed_draws_the_same_picture(seed: int) -> None:
    first, second = draw(generate_scene(seed), 96), draw(generate_scene(seed), 96)
    assert first.scene == second.scene
    np.testing.assert_array_equal(first.picture, second.picture)
    np.testing.assert_array_equal(first.region_ids, second.region_ids)


def test_different_seeds_draw_different_pictures() -> None:
    pictures = {draw(generate_scene(seed), 48).picture.tobytes() for seed in range(20)}
    assert len(pictures) == 20


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_masks_tile_the_picture_and_every_region_is_seen(seed: int) -> None:
    drawing = draw(generate_scene(seed), 192)
    masks = np.concatenate([drawing.band_masks, drawing.thing_masks])
    assert (masks.sum(0) == 1).all()
    assert 1 <= len(drawing.scene.things) <= MAX_THINGS
    assert all(mask.sum() > 100 for mask in drawing.thing_masks)


def test_mask_is_where_the_sticker_changed_the_picture() -> None:
    scene = generate_scene(5)
    without = Scene((), scene.bands, scene.texture_seed)
    changed = (draw(scene).picture != draw(without).picture).any(-1)
    masks = draw(scene).thing_masks.any(0)
    assert (masks & changed).sum() > 0.97 * masks.sum()
    # The mask holds what is at least half covered; the half-transparent rim is changed as well.
    within = functional.max_pool2d(torch.from_numpy(masks)[None].float(), 9, 1, 4)[0].numpy() > 0
    assert (changed & ~within).sum() < 0.01 * masks.sum()


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
    scene = generate_scene(seed)
    there = {kind.name for kind in scene.kinds} | {band.name for band in scene.bands}
    for turn in (caption_turn(scene), list_turn(scene)):
        assert find_names(turn.answer) == there
        things = [index for mention in turn.mentions for index in mention.things]
        bands = [index for mention in turn.mentions for index in mention.bands]
        assert sorted(things) == list(range(len(scene.things)))
        assert sorted(bands) == list(range(len(scene.bands)))
        for mention in turn.mentions:
            words = turn.answer[mention.start : mention.end]
            names = {scene.things[index].kind.name for index in mention.things}
            names |= {scene.bands[index].name for index in mention.bands}
            assert find_names(words) == names
            assert words == words.strip()


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_referring_expressions_mean_one_thing_only(seed: int) -> None:
    scene = generate_scene(seed)
    found = [set(referring_expressions(scene, index)) for index in range(len(scene.things))]
    for index, expressions in enumerate(found):
        others = set().union(*found[:index], *found[index + 1 :])
        assert not expressions & others


def test_small_and_large_follow_from_the_sizes() -> None:
    cat = KINDS[0]
    small = Thing(cat, 0.2, 0.5, 0.22, 0, False)
    large = Thing(cat, 0.8, 0.5, 0.4, 0, False)
    scene = Scene((small, large), generate_scene(0).bands, 0)
    assert "the small cat" in referring_expressions(scene, 0)
    assert "the left cat" in referring_expressions(scene, 0)
    assert "the large cat" in referring_expressions(scene, 1)
    assert "the cat" not in referring_expressions(scene, 0)


@settings(max_examples=80, deadline=None)
@given(seeds)
def test_answers_follow_from_the_facts(seed: int) -> None:
    scene = generate_scene(seed)
    turn = ask_random_question(scene, np.random.default_rng(seed))
    kinds = {kind.name for kind in scene.kinds}
    bands = {band.name for band in scene.bands}
    asked = find_names(turn.question)
    if turn.task == "is there":
        assert turn.answer.startswith("Yes" if asked <= kinds | bands else "No")
    if turn.task == "how many" and asked:
        (name,) = asked
        count = sum(thing.kind.name == name for thing in scene.things)
        word = ("no", "one", "two", "three")[count]
        assert re.search(rf"\b{word}\b", turn.answer)
    if turn.task == "which":
        assert find_names(turn.answer) < asked
    for mention in turn.mentions:
        assert 0 <= mention.start < mention.end <= len(turn.answer)


def test_where_answers_say_the_place_or_what_is_behind() -> None:
    scene = generate_scene(2)
    thing = scene.things[0]
    expressions = referring_expressions(scene, 0)
    plain = thing_place_turn(scene, 0, expressions[0])
    assert plain.answer == f"The {thing.kind.name} is {thing.place}."
    for index, thing in enumerate(scene.things):
        behind = scene.find_band_behind(thing)
        placed = thing_place_turn(scene, index, f"the {thing.kind.name} {thing.place}").answer
        between = "is in front of" if behind is scene.backdrop else "is on"
        start = f"The {thing.kind.name} {thing.place} {between} "
        assert placed.startswith(start)
        assert placed.endswith(f"{behind.name}.")
    assert band_place_turn(scene, 0).answer == f"The {scene.bands[0].name} is at the top."


def test_mention_mask_is_the_union_of_what_the_words_mean() -> None:
    drawing = draw(generate_scene(3), 96)
    turn = caption_turn(drawing.scene)
    whole = sum(mention_mask(drawing, mention).sum() for mention in turn.mentions)
    assert whole == 96 * 96


def test_names_are_found_once_each_and_the_longest_first() -> None:
    text = "Two cats and a soccer ball on a wood floor; no bus, three strawberries."
    assert find_names(text) == {"cat", "soccer ball", "wood floor", "bus", "strawberry"}
    assert find_names("category scattered") == set()
    assert all(place == place.strip() for row in PLACES for place in row)


def test_follow_ups_lean_on_what_was_said() -> None:
    random = np.random.default_rng(0)
    seen = set()
    for seed in range(300):
        scene = generate_scene(seed)
        first, second = generate_conversation(scene, random)
        if " it?" not in second.question:
            continue
        seen.add(second.question)
        (index,) = {thing for mention in first.mentions for thing in mention.things}
        if second.question == "Where is it?":
            assert second.answer == f"It is {scene.things[index].place}."
        if second.answer.startswith("It"):
            assert second.mentions[0].things == (index,)
    assert seen == {"Where is it?", "What is next to it?", "What is behind it?"}


def test_numbers_are_asked_of_things_that_bear_one() -> None:
    random = np.random.default_rng(0)
    for seed in range(40):
        turn = ask_tag_number(generate_scene(seed, tagged=True), random)
        assert ask_tag_number(generate_scene(seed, tagged=False), random) is None
        if turn is None:
            continue
        (mention,) = turn.mentions
        scene = generate_scene(seed, tagged=True)
        assert turn.answer.endswith(f" is {scene.things[mention.things[0]].tag_number}.")
        assert turn.question == f"What number is on {turn.answer[mention.start : mention.end]}?"


def test_tags_belong_to_their_things() -> None:
    tagged, plain = generate_scene(2, tagged=True), generate_scene(2, tagged=False)
    one, other = draw(tagged), draw(plain)
    changed = (one.picture != other.picture).any(-1)
    assert changed.any()
    assert not (changed & ~one.thing_masks.any(0)).any()


def test_absent_expressions_mean_nothing_that_is_there() -> None:
    for seed in range(60):
        drawing = draw(generate_scene(seed), 48)
        (said,) = absent_protocol(drawing, seed)
        scene = drawing.scene
        there = {kind.name for kind in scene.kinds} | {band.name for band in scene.bands}
        assert find_names(said.turn.answer)
        assert not find_names(said.turn.answer) & there
        assert not mention_mask(drawing, said.turn.mentions[0]).any()


def test_looks_vary_and_shapes_stay_nearly_the_same() -> None:
    usual, varied = (
        draw(generate_scene(3), 192),
        draw(generate_scene(3), 192, DrawingStyle(augmentation_seed=1)),
    )
    again = draw(generate_scene(3), 192, DrawingStyle(augmentation_seed=1))
    np.testing.assert_array_equal(varied.picture, again.picture)
    assert np.abs(usual.picture.astype(int) - varied.picture).mean() > 3
    for one, other in zip(usual.thing_masks, varied.thing_masks, strict=True):
        assert (one & other).sum() > 0.7 * (one | other).sum()


def test_settings_are_drawn_as_they_say(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (10, 200, 30)).save(tmp_path / "green.png")
    drawing = photograph_setting(tmp_path).draw(7)
    assert (drawing.picture[drawing.band_masks.any(0)] == (10, 200, 30)).all(-1).mean() > 0.9
    np.testing.assert_array_equal(drawing.region_ids, DEFAULT_SETTING.draw(7).region_ids)
    assert LARGER_SETTING.draw(7).picture.shape == (543, 543, 3)
    most = max(len(LARGER_SETTING.draw(seed).scene.things) for seed in range(12))
    assert most > MAX_THINGS


def test_settings_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks 127 of 127 stickers, such as 1f408.png \(cat\)"):
        artwork_setting(tmp_path)
    with pytest.raises(InputError, match=r"has no \.jpg or \.png file"):
        photograph_setting(tmp_path)
    artwork = tmp_path / "artwork"
    shutil.copytree(STICKER_FOLDER, artwork)
    (artwork / "1f408.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1f408\.png"):
        artwork_setting(artwork)
