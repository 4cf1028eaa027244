"""Tasks done together where memory is short."""

from typing import cast

import torch
from PIL import Image

from flmm.batch.answering import PictureTask, TaskAnswerer
from flmm.batch.settings import BatchSettings
from flmm.batch.tasks import Task
from flmm.grounding.grounder import Grounder


class _ShortOfMemory:
    """Answers two questions at most."""

    def chat_together(self, questions: list[object], **_: object) -> list[object]:
        if len(questions) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return questions


def test_what_has_memory_is_not_tried_with_more() -> None:
    picture = Image.new("RGB", (8, 8))
    tasks = [PictureTask(picture, Task(image="a.png", question="Q"))] * 8
    answerer = TaskAnswerer(cast(Grounder, _ShortOfMemory()), BatchSettings(), 8)
    assert len(answerer.answer(tasks)) == 8
    assert answerer.together == 2


def test_each_question_is_answered_once_while_another_batch_is_short_of_memory() -> None:
    class Grounding:
        """Another thread changes how many tasks have memory meanwhile."""

        def chat_together(self, questions: list[object], **_: object) -> list[object]:
            answerer.together = 8 if answerer.together == 2 else 2
            return [question for _, question in cast(list[tuple[object, object]], questions)]

    questions = tuple(f"Q{number}" for number in range(16))
    task = PictureTask(Image.new("RGB", (8, 8)), Task(image="a.png", questions=questions))
    answerer = TaskAnswerer(cast(Grounder, Grounding()), BatchSettings(), 4)
    (answers,) = answerer.answer([task])
    assert list(map(str, answers)) == list(questions)
