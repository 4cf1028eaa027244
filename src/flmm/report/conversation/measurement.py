"""Conversation is untouched: the same answers, to the last bit, with grounding and without."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
from PIL import Image
from torch import Tensor, nn

from flmm.bench.record import eager_attention
from flmm.data.sample_loader import Reading
from flmm.errors import InputError
from flmm.head.prompts import DEFAULT_CAPTION_PROMPT
from flmm.lmm.base import LMMAdapter
from flmm.report.context import Bench
from flmm.report.markdown import table

_PICTURES = 60
_QUESTIONS = 3
_TOKENS = 64


@dataclass(frozen=True)
class Compared:
    """One way of looking on, beside the LMM alone."""

    way: str
    same_answers: int
    same_logits: int
    """Answers of which every logit of every token is the same, bit by bit."""
    differences: tuple[float, ...]
    """Of each answer the largest, over all logits until a token differs."""


@dataclass(frozen=True)
class Conversation:
    """The claim's results."""

    pictures: int
    answers: int
    tokens: int
    phrases: int
    """That were grounded on the way."""
    same_weights: bool
    """Whether every byte of the LMM's weights was the same after all of it."""
    ways: tuple[Compared, ...]


@dataclass(frozen=True)
class _Said:
    text: str
    logits: Tensor
    """(tokens, V), from which each token was chosen."""


def measure(bench: Bench) -> Conversation:
    """Asks everything three times: alone, with grounding, and with attention given away.

    Raises:
        InputError: there is no picture to ask about.
    """
    grounder = bench.grounder
    adapter = grounder.adapter
    before = _bytes_digest(adapter.model)
    exchanges = list(_questions(bench))
    if not exchanges:
        raise InputError("no picture can be read; check the data")
    plain_tokens = phrases = 0
    found: dict[str, list[tuple[bool, float]]] = {way: [] for way in _WAYS}
    for number, (picture, question) in enumerate(exchanges):
        plain = _alone(adapter, picture, question)
        plain_tokens += len(plain.logits)
        with _heard(adapter) as heard:
            answer = grounder.chat(picture, question, max_new_tokens=_TOKENS)
        phrases += len(answer.phrases)
        with eager_attention(adapter):
            eager = _alone(adapter, picture, question)
        for way, said in zip(_WAYS, (_Said(answer.text, torch.stack(heard)), eager), strict=True):
            found[way].append((said.text == plain.text, _difference(plain, said)))
        bench.watch(number + 1, len(exchanges), "conversation")
    ways = tuple(
        Compared(
            way, sum(same for same, _ in results), sum(not gap for _, gap in results),
            tuple(gap for _, gap in results),
        )
        for way, results in found.items()
    )  # fmt: skip
    pictures = len({id(picture) for picture, _ in exchanges})
    same = _bytes_digest(adapter.model) == before
    return Conversation(pictures, len(exchanges), plain_tokens, phrases, same, ways)


_WAYS = ("flmm (records and grounds)", "transformers' output_attentions")


def _questions(bench: Bench) -> Iterator[tuple[Image.Image, str]]:
    """Some of what each picture's texts answer."""
    caption = bench.grounder.head.config.caption_prompt or DEFAULT_CAPTION_PROMPT
    for read in Reading(bench.tell).read(bench.data.measured[:_PICTURES]):
        asked = dict.fromkeys(text.text.question or caption for text in read.texts)
        for question in list(asked)[:_QUESTIONS]:
            yield read.picture, question


def _alone(adapter: LMMAdapter, picture: Image.Image, question: str) -> _Said:
    """What the LMM says as transformers generates it."""
    with _heard(adapter) as heard:
        said = adapter.generate(adapter.prepare(picture, question), _TOKENS)
    return _Said(said.text, torch.stack(heard))


@contextmanager
def _heard(adapter: LMMAdapter) -> Iterator[list[Tensor]]:
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


def _difference(plain: _Said, other: _Said) -> float:
    """The largest difference of logits, as far as both chose the same tokens before."""
    count = min(len(plain.logits), len(other.logits))
    mine, theirs = plain.logits[:count], other.logits[:count]
    changed = (mine.argmax(1) != theirs.argmax(1)).nonzero()
    last = int(changed[0]) + 1 if len(changed) else count
    if torch.equal(mine[:last], theirs[:last]):
        return 0.0
    return float((mine[:last].double() - theirs[:last].double()).abs().max())


def _bytes_digest(module: nn.Module) -> str:
    """Of every byte of every weight."""
    digest = blake2b(digest_size=16)
    for name, weight in module.named_parameters():
        flat = weight.detach().cpu().contiguous().view(-1)
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tables(results: Conversation) -> str:
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
        f"{bound}\n\n{table(titles, rows)}"
    )
