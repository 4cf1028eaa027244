"""Random questions about a scene, of several types ("tasks"), with their true answers."""

from collections.abc import Callable

import numpy as np

from flmm.stickers.kinds import KINDS, STUFF, Kind
from flmm.stickers.language import (
    CAPTION_QUESTIONS,
    LIST_QUESTIONS,
    NUMBER_WORDS,
    AnswerBuilder,
    Conversation,
    Turn,
    absent_place_turn,
    band_place_turn,
    caption_turn,
    find_nearest_thing,
    kind_phrase,
    list_turn,
    referring_expressions,
    stuff_phrase,
    tag_number_turn,
    thing_indices,
    thing_place_turn,
)
from flmm.stickers.scene import PLACES, Scene, generate_scene


def _choose_absent_kind(scene: Scene, random: np.random.Generator) -> Kind:
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    return absent[int(random.integers(len(absent)))]


def choose_absent_expression(scene: Scene, random: np.random.Generator) -> str:
    """Return an expression for a kind of thing or of stuff that is not in the scene."""
    absent = [name for name in STUFF if all(band.name != name for band in scene.bands)]
    if random.random() < 0.15:
        return f"the {absent[int(random.integers(len(absent)))]}"
    return f"the {_choose_absent_kind(scene, random).name}"


def ask_where(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask where a thing, stuff or something absent is; None if no expression means the thing."""
    chance = random.random()
    if chance < 0.1:
        return absent_place_turn(choose_absent_expression(scene, random))
    if chance < 0.2:
        return band_place_turn(scene, int(random.integers(len(scene.bands))))
    index = int(random.integers(len(scene.things)))
    expressions = referring_expressions(scene, index)
    if not expressions:
        return None
    return thing_place_turn(scene, index, expressions[int(random.integers(len(expressions)))])


def ask_what(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask what is at a place, next to a thing, or in the background; None if ambiguous."""
    chance = random.random()
    if chance < 0.12:
        last = len(scene.bands) - 1
        answer = (
            AnswerBuilder()
            .add_mention(stuff_phrase(scene.ground.name), bands=(last,))
            .add_text(".")
        )
        return answer.build_turn("what", "What is the ground?")
    if chance < 0.24:
        answer = (
            AnswerBuilder().add_mention(stuff_phrase(scene.backdrop.name), bands=(0,)).add_text(".")
        )
        return answer.build_turn("what", "What is in the background?")
    index = int(random.integers(len(scene.things)))
    thing = scene.things[index]
    if chance < 0.4:
        other = find_nearest_thing(scene, thing)
        if other is None or len(scene.things_of_kind(thing.kind)) > 1:
            return None
        where = f"next to the {thing.kind.name}"
        index, thing = scene.things.index(other), other
    else:
        where = thing.place
        if sum(other.place == where for other in scene.things) > 1:
            return None
    answer = AnswerBuilder().add_mention(kind_phrase(thing.kind, 1), things=(index,)).add_text(".")
    return answer.build_turn("what", f"What is {where}?")


def ask_how_many(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask for the number of all things or of those of a kind, which may be absent."""
    chance = random.random()
    if chance < 0.2:
        count = len(scene.things)
        words = (
            f"There is {NUMBER_WORDS[1]} thing."
            if count == 1
            else f"There are {NUMBER_WORDS[count]} things."
        )
        return Turn("how many", "How many things are there?", words)
    kinds = scene.kinds
    kind = kinds[int(random.integers(len(kinds)))]
    repeated = [kind for kind in kinds if len(scene.things_of_kind(kind)) > 1]
    if repeated and chance < 0.5:
        kind = repeated[0]
    # Most kinds in a scene are there once: without questions about absent kinds, the LMM answers
    # "one" for those as well.
    if chance > 0.75:
        kind = _choose_absent_kind(scene, random)
    things = thing_indices(scene, kind)
    question = f"How many {kind.plural} are there?"
    if not things:
        return Turn("how many", question, f"There are no {kind.plural}.")
    name = kind.name if len(things) == 1 else kind.plural
    answer = AnswerBuilder().add_text("There is " if len(things) == 1 else "There are ")
    answer.add_mention(f"{NUMBER_WORDS[len(things)]} {name}", things=things).add_text(".")
    return answer.build_turn("how many", question)


def ask_is_there(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask whether a kind of thing or of stuff is in the picture."""
    if random.random() < 0.25:
        name = STUFF[int(random.integers(len(STUFF)))]
        bands = [i for i, band in enumerate(scene.bands) if band.name == name]
        question = f"Is there {stuff_phrase(name)}?"
        if not bands:
            return Turn("is there", question, f"No, there is no {name}.")
        answer = (
            AnswerBuilder()
            .add_text("Yes, there is ")
            .add_mention(stuff_phrase(name), bands=(bands[0],))
        )
        return answer.add_text(".").build_turn("is there", question)
    kind = _choose_absent_kind(scene, random)
    if random.random() < 0.5:
        kind = scene.kinds[int(random.integers(len(scene.kinds)))]
    question = f"Is there {kind_phrase(kind, 1)}?"
    things = thing_indices(scene, kind)
    if not things:
        return Turn("is there", question, f"No, there is no {kind.name}.")
    answer = AnswerBuilder().add_text("Yes, there is " if len(things) == 1 else "Yes, there are ")
    answer.add_mention(kind_phrase(kind, len(things)), things=things)
    if len(things) == 1:
        answer.add_text(f" {scene.things[things[0]].place}")
    return answer.add_text(".").build_turn("is there", question)


def ask_which(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask which of two things is further left or larger; None if they hardly differ."""
    unique = [
        i for i, thing in enumerate(scene.things) if len(scene.things_of_kind(thing.kind)) == 1
    ]
    if len(unique) < 2:
        return None
    i, j = (unique[k] for k in random.permutation(len(unique))[:2])
    first, second = scene.things[i], scene.things[j]
    if random.random() < 0.6:
        comparative, difference = "further left", second.x - first.x
    else:
        comparative, difference = "larger", first.size - second.size
    if abs(difference) < 0.06:
        return None
    index = i if difference > 0 else j
    answer = (
        AnswerBuilder()
        .add_mention(f"the {scene.things[index].kind.name}", things=(index,))
        .add_text(".")
    )
    return answer.build_turn(
        "which", f"Which is {comparative}, the {first.kind.name} or the {second.kind.name}?"
    )


_QUESTION_TYPES: tuple[Callable[[Scene, np.random.Generator], Turn | None], ...] = (
    ask_where, ask_what, ask_how_many, ask_is_there, ask_which,
)  # fmt: skip
_QUESTION_PROBABILITIES = np.array([0.28, 0.22, 0.2, 0.16, 0.14])


def ask_random_question(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask a random question about the scene."""
    while True:
        turn = _QUESTION_TYPES[int(random.choice(len(_QUESTION_TYPES), p=_QUESTION_PROBABILITIES))](
            scene, random
        )
        if turn is not None:
            return turn


def ask_follow_up(scene: Scene, first: Turn, random: np.random.Generator) -> Turn:
    """Ask a second question after `first`: about "it", the thing of its answer, or any other."""
    things = {index for mention in first.mentions for index in mention.things}
    chance = random.random()
    if len(things) == 1 and chance < 0.7:
        (index,) = things
        thing = scene.things[index]
        other = find_nearest_thing(scene, thing)
        if other is not None and chance < 0.25:
            near = scene.things.index(other)
            answer = (
                AnswerBuilder()
                .add_mention(kind_phrase(other.kind, 1), things=(near,))
                .add_text(".")
            )
            return answer.build_turn("follow up", "What is next to it?")
        behind = scene.find_band_behind(thing)
        if chance < 0.4:
            answer = AnswerBuilder().add_mention("it", things=(index,)).add_text(" is in front of ")
            answer.add_mention(
                stuff_phrase(behind.name), bands=(scene.bands.index(behind),)
            ).add_text(".")
            return answer.build_turn("follow up", "What is behind it?")
        answer = AnswerBuilder().add_mention("it", things=(index,)).add_text(f" is {thing.place}.")
        return answer.build_turn("follow up", "Where is it?")
    second = ask_random_question(scene, random)
    return Turn("follow up", second.question, second.answer, second.mentions)


def generate_conversation(scene: Scene, random: np.random.Generator) -> Conversation:
    """Return two turns: a description or a random question, and a follow-up."""
    first = (
        ask_description(scene, random)
        if random.random() < 0.2
        else ask_random_question(scene, random)
    )
    return first, ask_follow_up(scene, first, random)


def ask_tag_number(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask for the number on a tag; None if no expression means a tagged thing alone."""
    candidates = [
        (index, expression)
        for index, thing in enumerate(scene.things)
        if thing.tag_number is not None
        for expression in referring_expressions(scene, index)
    ]
    if not candidates:
        return None
    return tag_number_turn(scene, *candidates[int(random.integers(len(candidates)))])


def ask_description(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask for a caption (70 %) or a list."""
    if random.random() < 0.7:
        return caption_turn(scene, CAPTION_QUESTIONS[int(random.integers(len(CAPTION_QUESTIONS)))])
    return list_turn(scene, LIST_QUESTIONS[int(random.integers(len(LIST_QUESTIONS)))])


def build_tokenizer_texts() -> list[str]:
    """Return texts with every word of the embedded world, to train the tokenizer on."""
    random = np.random.default_rng(0)
    texts = [
        f"{kind_phrase(kind, 1)}. {kind.plural}. the {kind.name} {place}"
        for kind in KINDS
        for row in PLACES
        for place in row
    ]
    for seed in range(3000):
        scene = generate_scene(seed)
        turns = [
            ask_tag_number(generate_scene(seed, tagged=True), random),
            *generate_conversation(scene, random),
        ]
        for turn in (
            caption_turn(scene),
            list_turn(scene),
            *turns,
            ask_random_question(scene, random),
        ):
            if turn is not None:
                texts.append(f"{turn.question} {turn.answer}")
    return texts
