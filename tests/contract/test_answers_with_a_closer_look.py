"""Every family answers in every way at once as it does alone, with one picture and with two."""

import numpy as np
from contract_helpers import noise_picture

from flmm.evaluate.answers.ways import CLOSER_LOOKS, Question, answer_in_every_way, true_region
from flmm.grounding.grounder import Grounder
from flmm.lmm.base import LMMAdapter

NUM_TOKENS = 5


def test_answers_match_generating_alone(adapter: LMMAdapter) -> None:
    picture = noise_picture()
    mask = np.zeros((picture.height, picture.width), dtype=np.bool_)
    mask[4:20, 8:30] = True
    region = true_region("the cat", 11, 18, mask)
    questions = [
        Question(text, f"{text} In one word?", region, seed)
        for seed, text in enumerate(("Where is the cat?", "What is on the grass?"))
    ]
    answered = answer_in_every_way(
        Grounder(adapter).pipeline, picture, questions, max_new_tokens=NUM_TOKENS
    )
    for question, ways in zip(questions, answered, strict=True):
        first = adapter.generate(adapter.build_prompt(picture, question.text), NUM_TOKENS)
        assert ways.first.text == first.text
        plain = adapter.generate(adapter.build_prompt(picture, question.second_text), NUM_TOKENS)
        assert ways.plain == plain.text
        assert list(ways.closer) == list(CLOSER_LOOKS)
        for look, second in ways.closer.items():
            if look.crop == "mask":
                continue
            pictures = [picture, picture.crop(second.box)]
            prompt = adapter.build_prompt(pictures, question.second_text)
            assert second.text == adapter.generate(prompt, NUM_TOKENS).text
