"""Generation of several answers together, with each answer's steps and trace."""

from collections.abc import Sequence

from flmm.attention.answer_batch import AnswerBatch
from flmm.attention.answer_sequence import GenerationListener
from flmm.attention.padded_generation import generate_padded
from flmm.lmm.base import LMMAdapter
from flmm.lmm.decoding.support import find_unsupported_reason
from flmm.lmm.padding import group_for_padding


def trace_generation_batch(adapter: LMMAdapter, listeners: Sequence[GenerationListener]) -> None:
    """Generate the answers of all listeners together; ``trace_generation`` does it for one.

    Each answer ends for itself, and so does one whose listener raises an exception after the first
    token: the first such exception is raised when all others have ended.

    An LMM that the decoding engine does not run generates a batch that is padded, which an
    exception ends; prompts of different lengths are batches of their own, one after another, for
    LLMs that padding would change.
    """
    if find_unsupported_reason(adapter) is None:
        with AnswerBatch(adapter) as batch:
            batch.add(listeners)
            failed: list[tuple[GenerationListener, Exception]] = []
            while batch.num_answers:
                failed += batch.step()
        for _, error in failed:
            raise error
        return
    for group in group_for_padding(adapter, [listener.prompt for listener in listeners]):
        generate_padded(adapter, [listeners[index] for index in group])
