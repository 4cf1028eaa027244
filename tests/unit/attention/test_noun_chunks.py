"""Noun chunks that may mean something in the picture."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_texts import MARKED_TEXTS
from noun_chunks import HALVES, compare, recall_and_precision

from flmm.attention.noun_chunks import find_noun_chunks


def chunks_of(text: str) -> list[str]:
    spans = find_noun_chunks(text)
    assert spans == sorted(spans)
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("A red cat sits on the grass.", ["A red cat", "the grass"]),
        ("It is next to two dogs and they see him.", ["two dogs"]),
        ("The image shows a dog in this photo of the house.", ["a dog", "the house"]),
        ("These pictures show a picture frame.", ["a picture frame"]),
        ("A cat sits in front of a house, next to a box.", ["A cat", "a house", "a box"]),
        ("A man on the left, with a dog on top of a car.", ["A man", "a dog", "a car"]),
        ("There is a kite in the upper right side of the picture.", ["a kite"]),
        ("The front of the house is red.", ["The front", "the house"]),
        ("🐈‍⬛ The old dog waits at the cafe\u0301.", ["The old dog", "the cafe\u0301"]),
        ("It looks at it, and 🐈‍⬛ a dog waits there.", ["a dog"]),
        ("🐈‍⬛", []),
        ("red cat", ["red cat"]),
        ("", []),
    ],
)
def test_noun_chunks(text: str, chunks: list[str]) -> None:
    assert chunks_of(text) == chunks


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("In the foreground: a man with a dog.", ["a man", "a dog"]),
        ("At the top, two birds.", ["two birds"]),
        ("In the image: a red car and a blue bus.", ["a red car", "a blue bus"]),
        ("On the table: a cup, a plate and two forks.",
         ["the table", "a cup", "a plate", "two forks"]),
        ("In the distance, mountains.", ["mountains"]),
        ("A bench. Behind it, a hedge; beside it, a lamp.", ["A bench", "a hedge", "a lamp"]),
        ("To the woman's left, a dog.", ["the woman's", "a dog"]),
        ("The red bag is the woman's.", ["The red bag", "the woman's"]),
        ("The woman's red bag is open.", ["The woman's red bag"]),
        ("A puppy playing with a ball.", ["A puppy", "a ball"]),
        ("The cat and the dog sleep on the grass.", ["The cat", "the dog", "the grass"]),
        ("A person skis down a snowy slope.", ["A person", "a snowy slope"]),
        ("He wears a helmet and knee pads.", ["a helmet", "knee pads"]),
        ("Salt and pepper shakers.", ["Salt and pepper shakers"]),
        ("A man in a state-of-the-art kitchen.", ["A man", "a state-of-the-art kitchen"]),
        ("There are two: a red one and a blue one.", ["a red one", "a blue one"]),
    ],
)  # fmt: skip
def test_sentences_without_a_verb_and_what_spacy_misreads(text: str, chunks: list[str]) -> None:
    assert chunks_of(text) == chunks


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("2. **Two dogs** on the grass", ["Two dogs", "the grass"]),
        ("There is a **red** car.", ["a **red** car"]),
        ("There is a **red car**.", ["a **red car"]),
        ("*A surfer* on ~~a board~~ `a huge wave`", ["A surfer", "a board", "a huge wave"]),
        ("[A dog](http://a.b/c_d 'a cat') and [a\ncat](e).", ["A dog", "a\ncat"]),
        ("![a cat](u.png) A dog", ["A dog"]),
        ("A `` red ` `` car, a \\*blue\\* bus", ["A `` red ` `` car", "a \\*blue\\* bus"]),
        ("<p> A man </p> holds <p> a dog </p>.", ["A man", "a dog"]),
        ("Items:\n- Coffee mug\n- Rake\n* the woman's", ["Coffee mug", "Rake", "the woman's"]),
        ("- İç", ["İç"]),
        ("• Guitar\n• Microphone stand\n", ["Guitar", "Microphone stand"]),
        ("1) a dog\r\n2) a cat\r\n", ["a dog", "a cat"]),
        ("dog\ncat\nred house", ["dog", "cat", "red house"]),
        ("A dog<br>a cat<br/> two birds", ["A dog", "a cat", "two birds"]),
        ("| A | B |\n|-|-|\n| Dog | a rug<br>hats |", ["Dog", "a rug", "hats"]),
        ("<ref>a dog</ref><box>(1,2)</box>", ["a dog"]),
        ("<b>A dog</b>, <i>a cat</i>.", ["A dog", "a cat"]),
        ("> A lion\n> - with a cub", ["A lion", "a cub"]),
        ("A man with a\nred hat.\nTwo dogs\nA cat", ["A man", "a\nred hat", "Two dogs", "A cat"]),
        ("- 🚗 A car\n- 🐈‍⬛ A cat 🐾", ["A car", "A cat"]),
        ("| Object | Where |\n|---|---|\n| **Bus** | near the bus |", ["Bus", "the bus"]),
        ("- Dog: brown, on a rug\n- Shoes: red", ["Dog", "a rug", "Shoes"]),
    ],
)
def test_markdown_is_no_part_of_a_chunk(text: str, chunks: list[str]) -> None:
    assert chunks_of(text) == chunks


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("Main subject: a dog", ["a dog"]),
        ("Main subject:", []),
        ("Objects\n- Coffee mug\n- Laptop", ["Coffee mug", "Laptop"]),
        ("**Instruments**\n\n- Drums\n- Flute", ["Drums", "Flute"]),
        ("## A dog\n\nIt sits on a rug.", ["a rug"]),
        ("Here are the main objects:\n1. A dog", ["A dog"]),
        ("Several objects lie on the table.", ["Several objects", "the table"]),
        ("Vehicles: two cars and a bus", ["two cars", "a bus"]),
        ("**Coffee mug**: white, on the left", ["Coffee mug"]),
        ("In the background, the foreground and the distance.", []),
        ("A kite in the air, to the right; in the lower half, a lake.", ["A kite", "a lake"]),
        ("On the right-hand side of the road, a shop.", ["the road", "a shop"]),
        ("A woman in a tank top in a shopping center.",
         ["A woman", "a tank top", "a shopping center"]),
        ('A poster says "Summer Sale" and "50% off".', ["A poster"]),
        ("A sign reads STOP. A boy reads books.", ["A sign", "A boy", "books"]),
        ('The "Exit" sign and the man\'s ‘I love NY’ shirt.',
         ['The "Exit" sign', "the man's ‘I love NY’ shirt"]),
        ("```\nA dog\n```", []),
        ("(A) a dog\n(B) a cat", ["a dog", "a cat"]),
        ("**Answer:** B", []),
        ("A close-up of a bee, giving a sense of calm.", ["a bee"]),
        ("A calendar with a photo of a cat.", ["A calendar", "a photo", "a cat"]),
        ("The man looks at the camera and holds a camera.", ["The man", "a camera"]),
        ("A lot of people wear several kinds of hats.", ["people", "hats"]),
        ("See https://example.com for the menu.", ["the menu"]),
    ],
)  # fmt: skip
def test_what_cannot_be_pointed_at_is_left_out(text: str, chunks: list[str]) -> None:
    assert chunks_of(text) == chunks


@pytest.mark.parametrize("punctuation", ["$", "([{", '"', "*(", "&<"])
def test_endless_punctuation_takes_no_time(punctuation: str) -> None:
    ending = punctuation * (20_000 // len(punctuation))
    find_noun_chunks("A dog.")
    start = time.process_time()
    assert chunks_of(f"A dog.\n{ending}\n\nA cat.") == ["A dog", "A cat"]
    assert time.process_time() - start < 5


@settings(max_examples=200, deadline=None)
@given(MARKED_TEXTS | st.text(max_size=40))
@example(' a-b-c- é  Dog" é 5km')
def test_chunks_of_any_text_are_words_in_order(text: str) -> None:
    last_end = 0
    for start, end in find_noun_chunks(text):
        assert last_end <= start < end <= len(text)
        assert text[start].isalnum()
        last_end = end


@pytest.mark.parametrize("half", HALVES)
def test_most_phrases_of_marked_answers_are_found(half: str) -> None:
    recall, precision = recall_and_precision(compare(half))
    assert recall >= 0.95
    assert precision >= 0.95
