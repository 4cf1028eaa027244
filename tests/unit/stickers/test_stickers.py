"""Tests of the embedded world: drawings are reproducible, masks exact, texts true."""

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

from flmm.embedded_model.evaluate_text import find_names
from flmm.embedded_model.evaluation_settings import (
    DEFAULT_SETTING,
    LARGER_SETTING,
    artwork_setting,
    photograph_setting,
)
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
from flmm.stickers.questions import (
    ask_random_question,
    ask_tag_number,
    choose_absent_expression,
    generate_conversation,
)
from flmm.stickers.scene import MAX_THINGS, PLACES, Scene, Thing, generate_scene

seeds = st.integers(0, 2**32)


def test_world_has_the_promised_number_of_kinds() -> None:
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
def test_masks_tile_the_picture_and_every_thing_is_visible(seed: int) -> None:
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
def test_captions_name_everything_in_the_scene_and_nothing_else(seed: int) -> None:
    scene = generate_scene(seed)
    scene_names = {kind.name for kind in scene.kinds} | {band.name for band in scene.bands}
    for turn in (caption_turn(scene), list_turn(scene)):
        assert find_names(turn.answer) == scene_names
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
    by_thing = [set(referring_expressions(scene, index)) for index in range(len(scene.things))]
    for index, expressions in enumerate(by_thing):
        others = set().union(*by_thing[:index], *by_thing[index + 1 :])
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
def test_answers_are_true(seed: int) -> None:
    scene = generate_scene(seed)
    turn = ask_random_question(scene, np.random.default_rng(seed))
    kinds = {kind.name for kind in scene.kinds}
    bands = {band.name for band in scene.bands}
    names = find_names(turn.question)
    if turn.task == "is there":
        assert turn.answer.startswith("Yes" if names <= kinds | bands else "No")
    if turn.task == "how many" and names:
        (name,) = names
        count = sum(thing.kind.name == name for thing in scene.things)
        word = ("no", "one", "two", "three")[count]
        assert re.search(rf"\b{word}\b", turn.answer)
    if turn.task == "which":
        assert find_names(turn.answer) < names
    for mention in turn.mentions:
        assert 0 <= mention.start < mention.end <= len(turn.answer)


def test_where_is_answered_with_the_place_or_what_is_behind() -> None:
    scene = generate_scene(2)
    thing = scene.things[0]
    expressions = referring_expressions(scene, 0)
    turn = thing_place_turn(scene, 0, expressions[0])
    assert turn.answer == f"The {thing.kind.name} is {thing.place}."
    for index, thing in enumerate(scene.things):
        behind = scene.find_band_behind(thing)
        answer = thing_place_turn(scene, index, f"the {thing.kind.name} {thing.place}").answer
        verb = "is in front of" if behind is scene.backdrop else "is on"
        assert answer.startswith(f"The {thing.kind.name} {thing.place} {verb} ")
        assert answer.endswith(f"{behind.name}.")
    assert band_place_turn(scene, 0).answer == f"The {scene.bands[0].name} is at the top."


def test_masks_of_a_captions_mentions_cover_the_picture() -> None:
    drawing = draw(generate_scene(3), 96)
    turn = caption_turn(drawing.scene)
    area = sum(mention_mask(drawing, mention).sum() for mention in turn.mentions)
    assert area == 96 * 96


def test_find_names_prefers_long_names_and_whole_words() -> None:
    text = "Two cats and a soccer ball on a wood floor; no bus, three strawberries."
    assert find_names(text) == {"cat", "soccer ball", "wood floor", "bus", "strawberry"}
    assert find_names("category scattered") == set()
    assert all(place == place.strip() for row in PLACES for place in row)


def test_follow_ups_refer_to_the_first_answer() -> None:
    random = np.random.default_rng(0)
    questions = set()
    for seed in range(300):
        scene = generate_scene(seed)
        first, second = generate_conversation(scene, random)
        if " it?" not in second.question:
            continue
        questions.add(second.question)
        (index,) = {thing for mention in first.mentions for thing in mention.things}
        if second.question == "Where is it?":
            assert second.answer == f"It is {scene.things[index].place}."
        if second.answer.startswith("It"):
            assert second.mentions[0].things == (index,)
    assert questions == {"Where is it?", "What is next to it?", "What is behind it?"}


def test_numbers_are_asked_of_tagged_things_only() -> None:
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


def test_tags_lie_within_their_things_masks() -> None:
    tagged, plain = draw(generate_scene(2, tagged=True)), draw(generate_scene(2, tagged=False))
    changed = (tagged.picture != plain.picture).any(-1)
    assert changed.any()
    assert not (changed & ~tagged.thing_masks.any(0)).any()


def test_absent_expressions_mean_nothing_in_the_scene() -> None:
    for seed in range(60):
        scene = generate_scene(seed)
        expression = choose_absent_expression(scene, np.random.default_rng(seed))
        scene_names = {kind.name for kind in scene.kinds} | {band.name for band in scene.bands}
        assert find_names(expression)
        assert not find_names(expression) & scene_names


def test_augmentation_changes_colours_and_hardly_any_shapes() -> None:
    plain, augmented = (
        draw(generate_scene(3), 192),
        draw(generate_scene(3), 192, DrawingStyle(augmentation_seed=1)),
    )
    again = draw(generate_scene(3), 192, DrawingStyle(augmentation_seed=1))
    np.testing.assert_array_equal(augmented.picture, again.picture)
    assert np.abs(plain.picture.astype(int) - augmented.picture).mean() > 3
    for before, after in zip(plain.thing_masks, augmented.thing_masks, strict=True):
        assert (before & after).sum() > 0.7 * (before | after).sum()


def test_settings_change_background_size_and_number_of_things(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (10, 200, 30)).save(tmp_path / "green.png")
    drawing = photograph_setting(tmp_path).draw(7)
    assert (drawing.picture[drawing.band_masks.any(0)] == (10, 200, 30)).all(-1).mean() > 0.9
    np.testing.assert_array_equal(drawing.region_ids, DEFAULT_SETTING.draw(7).region_ids)
    assert LARGER_SETTING.draw(7).picture.shape == (543, 543, 3)
    max_things = max(len(LARGER_SETTING.draw(seed).scene.things) for seed in range(12))
    assert max_things > MAX_THINGS


def test_settings_name_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks 127 of 127 stickers, such as 1f408.png \(cat\)"):
        artwork_setting(tmp_path)
    with pytest.raises(InputError, match=r"has no \.jpg or \.png file"):
        photograph_setting(tmp_path)
    artwork = tmp_path / "artwork"
    shutil.copytree(STICKER_FOLDER, artwork)
    (artwork / "1f408.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1f408\.png"):
        artwork_setting(artwork)
