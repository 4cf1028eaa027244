"""Phrases of questions; an expression of several noun chunks is one phrase."""

import time

import pytest

from flmm.attention.question_phrases import find_question_phrases
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.language import referring_expressions, tag_number_turn
from flmm.stickers.scene import generate_scene


@pytest.mark.parametrize(
    ("question", "phrases"),
    [
        ("What number is on the cat?", ["the cat"]),
        ("What number is on the cat next to the dog?", ["the cat next to the dog"]),
        ("What number is on the croissant next to the crab?", ["the croissant next to the crab"]),
        ("What number is on the hot dog in the lower left?", ["the hot dog in the lower left"]),
        ("What number is on the left teddy bear?", ["the left teddy bear"]),
        ("What number is on the cat between the dog and the house?",
         ["the cat between the dog and the house"]),
        ("What does the sign above the door say?", ["the sign above the door"]),
        ("What does the sign that hangs above the door say?",
         ["the sign that hangs above the door"]),
        ("What is written on the red bus?", ["the red bus"]),
        ("What colour is the left car?", ["the left car"]),
        ("What colour is the car on the left of the house?", ["the car on the left of the house"]),
        ("What is the colour of the car next to the tree?", ["the car next to the tree"]),
        ("What number is on the player wearing a red shirt?", ["the player wearing a red shirt"]),
        ("What is on the plate in front of the man?", ["the plate in front of the man"]),
        ("Does the man hold a cup in his left hand?", ["the man", "a cup in his left hand"]),
        # What is asked for is no phrase where there is another one.
        ("Which animal is on the grass?", ["the grass"]),
        ("What kind of animal is on the grass?", ["the grass"]),
        ("What kind of animal is this?", ["animal"]),
        ("Which animal is on the left?", ["animal"]),
        ("How many red cats are on the sofa?", ["red cats", "the sofa"]),
        ("Whose cat is on the sofa?", ["cat", "the sofa"]),
        # Two things that are compared or joined are two phrases.
        ("Which is larger, the cat or the dog?", ["the cat", "the dog"]),
        ("Is the cat larger than the dog?", ["the cat", "the dog"]),
        ("What is between the cat and the dog?", ["the cat", "the dog"]),
        ("Is there a dog in the picture?", ["a dog"]),
        ("What is next to it?", []),
        ("🐈‍⬛", []),
        ("", []),
    ],
)  # fmt: skip
def test_question_phrases(question: str, phrases: list[str]) -> None:
    assert [question[start:end] for start, end in find_question_phrases(question)] == phrases


def test_phrase_of_a_number_question_is_its_expression() -> None:
    correct = []
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + 40):
        scene = generate_scene(seed, tagged=True)
        for index in range(len(scene.things)):
            for expression in referring_expressions(scene, index):
                question = tag_number_turn(scene, index, expression).question
                phrases = [question[start:end] for start, end in find_question_phrases(question)]
                correct.append(phrases == [expression])
    assert len(correct) > 200
    # spaCy does not tag a few kinds ("the left rose") as nouns.
    assert sum(correct) >= 0.99 * len(correct)


@pytest.mark.parametrize("punctuation", ["?!", "“”", "(("])
def test_endless_punctuation_takes_no_time(punctuation: str) -> None:
    find_question_phrases("Where is it?")
    question = f"What is {punctuation * 5000} next to the dog?"
    started = time.process_time()
    phrases = find_question_phrases(question)
    assert [question[start:end] for start, end in phrases] == ["the dog"]
    assert time.process_time() - started < 3
