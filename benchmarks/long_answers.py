"""Time that finding the phrases of a streamed answer takes, by the answer's length.

    python benchmarks/long_answers.py

Prints milliseconds a token, which do not grow with the answer, for the head's keyword selector and
for given phrases. The LMM itself does not run: its hidden states are random.
"""

import time

import torch

from flmm import Grounder
from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.grounding.phrase_extraction import PhraseExtractor, StreamingPhraseExtractor
from flmm.lmm.detokenizer import Detokenizer

_SENTENCE = "There is a brown dog next to the man's white-haired cat, and a crème brûlée. "
_LENGTHS = (256, 1024, 4096)


def measure(extractor: PhraseExtractor, token_ids: list[int], hidden_states: torch.Tensor) -> float:
    """Return the milliseconds that a token takes."""
    streaming = StreamingPhraseExtractor(extractor)
    detokenizer = Detokenizer(extractor.tokenizer)
    started = time.perf_counter()
    for num_recorded, token_id in enumerate(token_ids):
        detokenizer.add(token_id)

        def states(first: int, end: int = num_recorded) -> torch.Tensor:
            return hidden_states[:, first:end]

        text = detokenizer.stable_text
        step = GenerationStep(
            token_id, text, detokenizer.offsets_from, num_recorded, states, _no_trace
        )
        streaming.update(step, text)
    return (time.perf_counter() - started) * 1000 / len(token_ids)


def _no_trace() -> Trace:
    raise AssertionError("masks are not measured")


def main() -> None:
    grounder = Grounder.from_pretrained()
    tokenizer, head = grounder.pipeline.adapter.tokenizer, grounder.head
    assert head is not None
    token_ids = tokenizer(_SENTENCE * 400, add_special_tokens=False)["input_ids"]
    states = torch.randn(head.config.layers, max(_LENGTHS), head.config.hidden_size)
    extractors = {
        "selector": PhraseExtractor(head, tokenizer),
        "given phrases": PhraseExtractor(
            head, tokenizer, ["brown dog", "cat", "crème brûlée"] * 20
        ),
    }
    print(f"{'tokens':>15}" + "".join(f"{length:>10}" for length in _LENGTHS))
    for name, extractor in extractors.items():
        times = [measure(extractor, token_ids[:length], states) for length in _LENGTHS]
        print(f"{name:>15}" + "".join(f"{milliseconds:>7.2f} ms" for milliseconds in times))


if __name__ == "__main__":
    main()
