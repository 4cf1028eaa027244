"""Questions about a scene and their answers, in a few sorts ("tasks"), from its own facts."""

from collections.abc import Callable

import numpy as np

from flmm.stickers.kinds import KINDS, STUFF, Kind
from flmm.stickers.language import (
    CAPTION_QUESTIONS,
    LIST_QUESTIONS,
    NUMBERS,
    AnswerText,
    Conversation,
    Turn,
    caption,
    indices_of,
    kind_phrase,
    listing,
    nearest_to,
    number_on,
    referring_expressions,
    stuff_phrase,
    where_absent,
    where_band,
    where_thing,
)
from flmm.stickers.scene import PLACES, Scene, draw_scene


def _absent_kind(scene: Scene, random: np.random.Generator) -> Kind:
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    return absent[int(random.integers(len(absent)))]


def absent_expression(scene: Scene, random: np.random.Generator) -> str:
    """An expression that means nothing in the scene: another kind, or another kind of stuff."""
    absent = [name for name in STUFF if all(band.name != name for band in scene.bands)]
    if random.random() < 0.15:
        return f"the {absent[int(random.integers(len(absent)))]}"
    return f"the {_absent_kind(scene, random).name}"


def ask_where(scene: Scene, random: np.random.Generator) -> Turn | None:
    chance = random.random()
    if chance < 0.1:
        return where_absent(absent_expression(scene, random))
    if chance < 0.2:
        return where_band(scene, int(random.integers(len(scene.bands))))
    index = int(random.integers(len(scene.things)))
    expressions = referring_expressions(scene, index)
    if not expressions:
        return None
    return where_thing(scene, index, expressions[int(random.integers(len(expressions)))])


def ask_what(scene: Scene, random: np.random.Generator) -> Turn | None:
    chance = random.random()
    if chance < 0.12:
        last = len(scene.bands) - 1
        answer = AnswerText().mention(stuff_phrase(scene.ground.name), bands=(last,)).say(".")
        return answer.turn("what", "What is the ground?")
    if chance < 0.24:
        answer = AnswerText().mention(stuff_phrase(scene.backdrop.name), bands=(0,)).say(".")
        return answer.turn("what", "What is in the background?")
    index = int(random.integers(len(scene.things)))
    thing = scene.things[index]
    if chance < 0.4:
        other = nearest_to(scene, thing)
        if other is None or len(scene.of_kind(thing.kind)) > 1:
            return None
        where = f"next to the {thing.kind.name}"
        index, thing = scene.things.index(other), other
    else:
        where = thing.place
        if sum(other.place == where for other in scene.things) > 1:
            return None
    answer = AnswerText().mention(kind_phrase(thing.kind, 1), things=(index,)).say(".")
    return answer.turn("what", f"What is {where}?")


def ask_how_many(scene: Scene, random: np.random.Generator) -> Turn:
    chance = random.random()
    if chance < 0.2:
        count = len(scene.things)
        words = (
            f"There is {NUMBERS[1]} thing." if count == 1 else f"There are {NUMBERS[count]} things."
        )
        return Turn("how many", "How many things are there?", words)
    kinds = scene.kinds
    kind = kinds[int(random.integers(len(kinds)))]
    repeated = [kind for kind in kinds if len(scene.of_kind(kind)) > 1]
    if repeated and chance < 0.5:
        kind = repeated[0]
    # One of what is there is so likely an answer that it was said of what is not there as well.
    if chance > 0.75:
        kind = _absent_kind(scene, random)
    things = indices_of(scene, kind)
    question = f"How many {kind.plural} are there?"
    if not things:
        return Turn("how many", question, f"There are no {kind.plural}.")
    name = kind.name if len(things) == 1 else kind.plural
    answer = AnswerText().say("There is " if len(things) == 1 else "There are ")
    answer.mention(f"{NUMBERS[len(things)]} {name}", things=things).say(".")
    return answer.turn("how many", question)


def ask_is_there(scene: Scene, random: np.random.Generator) -> Turn:
    if random.random() < 0.25:
        name = STUFF[int(random.integers(len(STUFF)))]
        bands = [i for i, band in enumerate(scene.bands) if band.name == name]
        question = f"Is there {stuff_phrase(name)}?"
        if not bands:
            return Turn("is there", question, f"No, there is no {name}.")
        answer = AnswerText().say("Yes, there is ").mention(stuff_phrase(name), bands=(bands[0],))
        return answer.say(".").turn("is there", question)
    kind = _absent_kind(scene, random)
    if random.random() < 0.5:
        kind = scene.kinds[int(random.integers(len(scene.kinds)))]
    question = f"Is there {kind_phrase(kind, 1)}?"
    things = indices_of(scene, kind)
    if not things:
        return Turn("is there", question, f"No, there is no {kind.name}.")
    answer = AnswerText().say("Yes, there is " if len(things) == 1 else "Yes, there are ")
    answer.mention(kind_phrase(kind, len(things)), things=things)
    if len(things) == 1:
        answer.say(f" {scene.things[things[0]].place}")
    return answer.say(".").turn("is there", question)


def ask_which(scene: Scene, random: np.random.Generator) -> Turn | None:
    single = [i for i, thing in enumerate(scene.things) if len(scene.of_kind(thing.kind)) == 1]
    if len(single) < 2:
        return None
    first, second = (single[i] for i in random.permutation(len(single))[:2])
    one, two = scene.things[first], scene.things[second]
    if random.random() < 0.6:
        word, gap, chosen = "further left", abs(one.x - two.x), first if one.x < two.x else second
    else:
        word, gap, chosen = (
            "larger",
            abs(one.size - two.size),
            first if one.size > two.size else second,
        )
    if gap < 0.06:
        return None
    answer = (
        AnswerText().mention(f"the {scene.things[chosen].kind.name}", things=(chosen,)).say(".")
    )
    return answer.turn("which", f"Which is {word}, the {one.kind.name} or the {two.kind.name}?")


_ASKS: tuple[Callable[[Scene, np.random.Generator], Turn | None], ...] = (
    ask_where, ask_what, ask_how_many, ask_is_there, ask_which,
)  # fmt: skip
_SHARES = np.array([0.28, 0.22, 0.2, 0.16, 0.14])


def ask(scene: Scene, random: np.random.Generator) -> Turn:
    """One random question about the scene with its answer."""
    while True:
        turn = _ASKS[int(random.choice(len(_ASKS), p=_SHARES))](scene, random)
        if turn is not None:
            return turn


def follow_up(scene: Scene, first: Turn, random: np.random.Generator) -> Turn:
    """A second question after `first`: about the "it" of its answer, or any other."""
    things = {index for mention in first.mentions for index in mention.things}
    chance = random.random()
    if len(things) == 1 and chance < 0.7:
        (index,) = things
        thing = scene.things[index]
        other = nearest_to(scene, thing)
        if other is not None and chance < 0.25:
            near = scene.things.index(other)
            answer = AnswerText().mention(kind_phrase(other.kind, 1), things=(near,)).say(".")
            return answer.turn("follow up", "What is next to it?")
        behind = scene.band_behind(thing)
        if chance < 0.4:
            answer = AnswerText().mention("it", things=(index,)).say(" is in front of ")
            answer.mention(stuff_phrase(behind.name), bands=(scene.bands.index(behind),)).say(".")
            return answer.turn("follow up", "What is behind it?")
        answer = AnswerText().mention("it", things=(index,)).say(f" is {thing.place}.")
        return answer.turn("follow up", "Where is it?")
    second = ask(scene, random)
    return Turn("follow up", second.question, second.answer, second.mentions)


def converse(scene: Scene, random: np.random.Generator) -> Conversation:
    """Two turns: something said of the picture or asked about it, and a follow-up."""
    first = say_all(scene, random) if random.random() < 0.2 else ask(scene, random)
    return first, follow_up(scene, first, random)


def ask_number(scene: Scene, random: np.random.Generator) -> Turn | None:
    """What is on a tag; None where no tagged thing can be told from the others."""
    found = [
        (index, expression)
        for index, thing in enumerate(scene.things)
        if thing.number is not None
        for expression in referring_expressions(scene, index)
    ]
    if not found:
        return None
    return number_on(scene, *found[int(random.integers(len(found)))])


def say_all(scene: Scene, random: np.random.Generator) -> Turn:
    """A caption (mostly) or a list, to one of its questions."""
    if random.random() < 0.7:
        return caption(scene, CAPTION_QUESTIONS[int(random.integers(len(CAPTION_QUESTIONS)))])
    return listing(scene, LIST_QUESTIONS[int(random.integers(len(LIST_QUESTIONS)))])


def every_text() -> list[str]:
    """Texts that hold every word of the world, to train the tokenizer on."""
    random = np.random.default_rng(0)
    texts = [
        f"{kind_phrase(k, 1)}. {k.plural}. the {k.name} {p}"
        for k in KINDS
        for row in PLACES
        for p in row
    ]
    for seed in range(3000):
        scene = draw_scene(seed)
        asked = [ask_number(draw_scene(seed, tagged=True), random), *converse(scene, random)]
        for turn in (caption(scene), listing(scene), *asked, ask(scene, random)):
            if turn is not None:
                texts.append(f"{turn.question} {turn.answer}")
    return texts
