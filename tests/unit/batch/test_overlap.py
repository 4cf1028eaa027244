"""Batches answered side by side."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from PIL import Image

from flmm.batch.answering import TaskAnswerer
from flmm.batch.overlap import map_side_by_side
from flmm.batch.run import answer_items
from flmm.batch.settings import BatchSettings
from flmm.batch.sources.items import Item
from flmm.batch.tasks import Task
from flmm.grounding.grounder import Grounder

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 4])
def num_cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def four_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_inputs_are_taken_when_needed(num_cores: int) -> None:
    taken: list[int] = []

    def take() -> Iterator[int]:
        for number in range(9):
            taken.append(number)
            yield number

    def square(number: int) -> int:
        time.sleep(0.02 * (number % 2 == 0))
        return number**2

    for done, pair in enumerate(map_side_by_side(square, take(), CPU)):
        assert pair == (done, done**2)
        assert len(taken) <= done + 3
    assert torch.get_num_threads() == num_cores


@pytest.mark.usefixtures("four_cores")
def test_two_are_computed_at_once_each_with_half_of_the_cores() -> None:
    both_run = threading.Barrier(2, timeout=10)

    def count_cores(_: int) -> int:
        both_run.wait()
        return torch.get_num_threads()

    assert [cores for _, cores in map_side_by_side(count_cores, range(6), CPU)] == [2] * 6
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_cores")
def test_models_elsewhere_are_called_by_one_thread() -> None:
    def name_thread(_: int) -> str:
        return threading.current_thread().name

    names = [name for _, name in map_side_by_side(name_thread, range(3), torch.device("meta"))]
    assert names == [threading.current_thread().name] * 3


@pytest.mark.usefixtures("four_cores")
def test_an_error_is_raised_in_its_place_and_ends_what_runs() -> None:
    ended = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            return 0
        if number == 1:
            raise ValueError("broken")
        try:
            while True:  # A long batch, which Ctrl-C ends.
                time.sleep(0.01)
        finally:
            ended.set()

    results = map_side_by_side(work, range(3), CPU)
    assert next(results) == (0, 0)
    with pytest.raises(ValueError, match="broken"):
        next(results)
    assert ended.is_set()
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_cores")
def test_a_reader_that_stops_ends_what_runs() -> None:
    def work(number: int) -> int:
        while number:
            time.sleep(0.01)
        return number

    results = map_side_by_side(work, range(5), CPU)
    assert next(results) == (0, 0)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flmm-batch")]


class _Grounding:
    """Answers the first picture, and then for ever."""

    def __init__(self) -> None:
        self.adapter = SimpleNamespace(device=torch.device("cpu"))

    def chat_together(self, questions: list[tuple[Image.Image, str]], **_: object) -> list[object]:
        while questions[0][1] != "first":
            time.sleep(0.01)
        return [SimpleNamespace() for _ in questions]


class _Picture:
    def load(self) -> Image.Image:
        return Image.new("RGB", (8, 8))


@pytest.mark.usefixtures("four_cores")
def test_an_error_of_who_gets_the_answers_ends_what_runs() -> None:
    answerer = TaskAnswerer(cast(Grounder, _Grounding()), BatchSettings(), 1)
    items = [
        Item(question, Task(image="a.png", question=question), _Picture(), "")
        for question in ("first", "second", "third")
    ]

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left") as raised:
        list(answer_items(answerer, items, fail))
    assert raised.tb is not None  # as where the exception is kept
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("flmm-batch", "flmm-decode"))]
