"""Comparison of answers and logits with grounding and without, bit by bit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from flmm.attention.eager import eager_attention
from flmm.data.sample_loader import SampleLoader
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.report.context import ReportContext
from flmm.report.markdown import markdown_table

_MAX_PICTURES = 60
_QUESTIONS_PER_PICTURE = 3
_MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class RunComparison:
    """One way to record attention, compared with the LMM alone."""

    way: str
    same_answers: int
    same_logits: int
    """Answers with bit-identical logits of every token."""
    differences: tuple[float, ...]
    """Largest logit difference of each answer, up to the first token that differs."""


@dataclass(frozen=True)
class ConversationResults:
    """The claim's results."""

    pictures: int
    answers: int
    tokens: int
    phrases: int
    """Number of grounded phrases."""
    same_weights: bool
    """Whether every byte of the LMM's weights was the same afterwards."""
    ways: tuple[RunComparison, ...]


@dataclass(frozen=True)
class _GeneratedAnswer:
    text: str
    logits: Tensor
    """(tokens, vocabulary), from which each token was chosen."""


def measure(context: ReportContext) -> ConversationResults:
    """Generate every answer three times: LMM alone, with grounding, with ``output_attentions``.

    Raises:
        InputError: no picture can be used.
    """
    grounder = context.grounder
    adapter = grounder.adapter
    digest = _weights_digest(adapter.model)
    questions = list(_read_questions(context))
    plain_tokens = phrases = 0
    measured: list[Image.Image] = []
    comparisons: dict[str, list[tuple[bool, float]]] = {name: [] for name in _RUN_NAMES}
    for number, (picture, question) in enumerate(questions, 1):
        try:
            plain = _generate(adapter, picture, question)
        except InputError as error:
            context.on_message(f"left out: {error}")
            continue
        measured.append(picture)
        plain_tokens += len(plain.logits)
        with _record_logits(adapter) as logits:
            answer = grounder.chat(picture, question, max_new_tokens=_MAX_NEW_TOKENS)
        grounded = _GeneratedAnswer(answer.text, torch.stack(logits))
        phrases += len(answer.phrases)
        with eager_attention(adapter.text_model):
            eager = _generate(adapter, picture, question)
        for name, other in zip(_RUN_NAMES, (grounded, eager), strict=True):
            same_text = other.text == plain.text
            comparisons[name].append((same_text, _max_logit_difference(plain, other)))
        context.on_progress(number, len(questions), "conversation")
    if not measured:
        raise InputError("no picture can be used; check the data")
    ways = tuple(
        RunComparison(
            name, sum(same for same, _ in results),
            sum(not difference for _, difference in results),
            tuple(difference for _, difference in results),
        )
        for name, results in comparisons.items()
    )  # fmt: skip
    pictures = len(set(map(id, measured)))
    same = _weights_digest(adapter.model) == digest
    return ConversationResults(pictures, len(measured), plain_tokens, phrases, same, ways)


_RUN_NAMES = ("flmm (records and grounds)", "transformers' output_attentions")


def _read_questions(context: ReportContext) -> Iterator[tuple[Image.Image, str]]:
    """Yield pictures with the first 3 different questions of each."""
    caption = context.grounder.pipeline.prompt_templates.caption
    for sample in SampleLoader(context.on_message).load(context.data.measured[:_MAX_PICTURES]):
        questions = dict.fromkeys(text.text.question or caption for text in sample.texts)
        for question in list(questions)[:_QUESTIONS_PER_PICTURE]:
            yield sample.picture, question


def _generate(adapter: LMMAdapter, picture: Image.Image, question: str) -> _GeneratedAnswer:
    """Generate an answer with the LMM alone."""
    with _record_logits(adapter) as logits:
        generation = adapter.generate(adapter.build_prompt(picture, question), _MAX_NEW_TOKENS)
    return _GeneratedAnswer(generation.text, torch.stack(logits))


@contextmanager
def _record_logits(adapter: LMMAdapter) -> Iterator[list[Tensor]]:
    """Collect the (vocabulary,) logits that each token is chosen from."""
    logits: list[Tensor] = []

    def append_logits(_module: nn.Module, _inputs: object, output: CausalLMOutput) -> None:
        assert output.logits is not None
        logits.append(output.logits[0, -1].detach().cpu().clone())

    with ExitStack() as stack:
        # Not the output layer's, which also runs for the scores of phrases.
        handle = adapter.model.register_forward_hook(append_logits)
        stack.callback(handle.remove)
        yield logits


def _max_logit_difference(plain: _GeneratedAnswer, other: _GeneratedAnswer) -> float:
    """Return the largest logit difference, up to the first token that differs."""
    count = min(len(plain.logits), len(other.logits))
    first, second = plain.logits[:count], other.logits[:count]
    changed = (first.argmax(1) != second.argmax(1)).nonzero()
    end = int(changed[0]) + 1 if len(changed) else count
    if torch.equal(first[:end], second[:end]):
        return 0.0
    return float((first[:end].double() - second[:end].double()).abs().max())


def _weights_digest(module: nn.Module) -> str:
    """Return a digest of every byte of every weight."""
    digest = blake2b(digest_size=16)
    for name, weight in module.named_parameters():
        flat = weight.detach().cpu().contiguous().view(-1)
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def render_tables(results: ConversationResults) -> str:
    """Return a table of equal answers and logits, and whether the weights are the same."""
    weights = "the same, byte by byte" if results.same_weights else "**not the same any more**"
    rows = [
        [
            way.way,
            f"{way.same_answers:,} of {results.answers:,}",
            f"{way.same_logits:,} of {results.answers:,}",
            f"{max(way.differences):.2g}" if max(way.differences) else "0",
        ]
        for way in results.ways
    ]
    titles = ["beside the LMM alone", "same answer", "same logits, bit by bit", "largest change"]
    bound = ""
    if results.ways[0].same_answers == results.answers:
        share = 100 * 3 / results.answers
        bound = (
            f" (With {results.answers:,} answers and no change, the share of changed ones is below"
            f" {share:.1f} % with 95 % confidence; that the logits are the same says why.)"
        )
    return (
        f"{results.answers:,} questions about {results.pictures} pictures, {results.tokens:,}"
        f" tokens said, {results.phrases:,} phrases grounded on the way. The LMM's weights"
        f" afterwards: {weights}. Beside flmm stands the usual way to get at attention maps, for"
        " which transformers must compute attention by other arithmetic."
        f"{bound}\n\n{markdown_table(titles, rows)}"
    )
