"""Conversation is untouched: the same answers, to the last bit, with grounding and without."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
from PIL import Image
from torch import Tensor, nn

from flmm.bench.record import eager_attention
from flmm.data.sample_loader import SampleLoader
from flmm.errors import InputError
from flmm.head.prompts import DEFAULT_CAPTION_PROMPT
from flmm.lmm.base import LMMAdapter
from flmm.report.context import ReportContext
from flmm.report.markdown import markdown_table

_MAX_PICTURES = 60
_QUESTIONS_PER_PICTURE = 3
_MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class RunComparison:
    """One way of looking on, beside the LMM alone."""

    way: str
    same_answers: int
    same_logits: int
    """Answers of which every logit of every token is the same, bit by bit."""
    differences: tuple[float, ...]
    """Of each answer the largest, over all logits until a token differs."""


@dataclass(frozen=True)
class ConversationResults:
    """The claim's results."""

    pictures: int
    answers: int
    tokens: int
    phrases: int
    """That were grounded on the way."""
    same_weights: bool
    """Whether every byte of the LMM's weights was the same after all of it."""
    ways: tuple[RunComparison, ...]


@dataclass(frozen=True)
class _GeneratedAnswer:
    text: str
    logits: Tensor
    """(tokens, V), from which each token was chosen."""


def measure(context: ReportContext) -> ConversationResults:
    """Asks everything three times: alone, with grounding, and with attention given away.

    Raises:
        InputError: there is no picture to ask about.
    """
    grounder = context.grounder
    adapter = grounder.adapter
    before = _weights_digest(adapter.model)
    exchanges = list(_read_questions(context))
    if not exchanges:
        raise InputError("no picture can be read; check the data")
    plain_tokens = phrases = 0
    found: dict[str, list[tuple[bool, float]]] = {way: [] for way in _RUN_NAMES}
    for number, (picture, question) in enumerate(exchanges):
        plain = _generate(adapter, picture, question)
        plain_tokens += len(plain.logits)
        with _record_logits(adapter) as heard:
            answer = grounder.chat(picture, question, max_new_tokens=_MAX_NEW_TOKENS)
        phrases += len(answer.phrases)
        with eager_attention(adapter):
            eager = _generate(adapter, picture, question)
        for way, said in zip(
            _RUN_NAMES, (_GeneratedAnswer(answer.text, torch.stack(heard)), eager), strict=True
        ):
            found[way].append((said.text == plain.text, _max_logit_difference(plain, said)))
        context.on_progress(number + 1, len(exchanges), "conversation")
    ways = tuple(
        RunComparison(
            way, sum(same for same, _ in results), sum(not gap for _, gap in results),
            tuple(gap for _, gap in results),
        )
        for way, results in found.items()
    )  # fmt: skip
    pictures = len({id(picture) for picture, _ in exchanges})
    same = _weights_digest(adapter.model) == before
    return ConversationResults(pictures, len(exchanges), plain_tokens, phrases, same, ways)


_RUN_NAMES = ("flmm (records and grounds)", "transformers' output_attentions")


def _read_questions(context: ReportContext) -> Iterator[tuple[Image.Image, str]]:
    """Some of what each picture's texts answer."""
    caption = context.grounder.head.config.caption_prompt or DEFAULT_CAPTION_PROMPT
    for read in SampleLoader(context.on_message).load(context.data.measured[:_MAX_PICTURES]):
        asked = dict.fromkeys(text.text.question or caption for text in read.texts)
        for question in list(asked)[:_QUESTIONS_PER_PICTURE]:
            yield read.picture, question


def _generate(adapter: LMMAdapter, picture: Image.Image, question: str) -> _GeneratedAnswer:
    """What the LMM says as transformers generates it."""
    with _record_logits(adapter) as heard:
        said = adapter.generate(adapter.build_prompt(picture, question), _MAX_NEW_TOKENS)
    return _GeneratedAnswer(said.text, torch.stack(heard))


@contextmanager
def _record_logits(adapter: LMMAdapter) -> Iterator[list[Tensor]]:
    """Collects the (V,) logits that each token is chosen from."""
    logits: list[Tensor] = []

    def hear(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        logits.append(output[0, -1].detach().cpu().clone())

    head = adapter.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(head, nn.Module)
    with ExitStack() as stack:
        handle = head.register_forward_hook(hear)
        stack.callback(handle.remove)
        yield logits


def _max_logit_difference(plain: _GeneratedAnswer, other: _GeneratedAnswer) -> float:
    """The largest difference of logits, as far as both chose the same tokens before."""
    count = min(len(plain.logits), len(other.logits))
    mine, theirs = plain.logits[:count], other.logits[:count]
    changed = (mine.argmax(1) != theirs.argmax(1)).nonzero()
    last = int(changed[0]) + 1 if len(changed) else count
    if torch.equal(mine[:last], theirs[:last]):
        return 0.0
    return float((mine[:last].double() - theirs[:last].double()).abs().max())


def _weights_digest(module: nn.Module) -> str:
    """Of every byte of every weight."""
    digest = blake2b(digest_size=16)
    for name, weight in module.named_parameters():
        flat = weight.detach().cpu().contiguous().view(-1)
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def render_tables(results: ConversationResults) -> str:
    """Answers, logits, weights."""
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
