"""All that changes results, beside the pictures and what is asked about each."""

from dataclasses import asdict, dataclass, field

from flmm.evaluate.benchmark import mask_model_fingerprint
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_options import MaskKeywords, MaskOptions
from flmm.head.weights import fingerprint_weights

RESULTS_VERSION = 1
"""Of what flmm makes of the same models and settings; changes with its results."""


@dataclass(frozen=True)
class BatchSettings:
    """How the tasks of a batch are done."""

    question: str | None = None
    """Of all tasks that have none."""
    max_new_tokens: int = 256
    """As in ``Grounder.chat``."""
    mask_options: MaskKeywords = field(default_factory=MaskKeywords)
    """As in ``Grounder.chat``."""

    def describe(self, grounder: Grounder) -> dict[str, object]:
        """Return what results depend on, by name; models by their weights, wherever they lie."""
        adapter = grounder.adapter
        return {
            "flmm's version of results": RESULTS_VERSION,
            "question": self.question,
            "max_new_tokens": self.max_new_tokens,
            **asdict(MaskOptions(**self.mask_options)),
            "head, profile or SAM": mask_model_fingerprint(grounder),
            "LMM": fingerprint_weights(adapter.model),
            "revision of the LMM": adapter.revision,
            "dtype": str(adapter.model.dtype).removeprefix("torch."),
            "prompts": asdict(grounder.pipeline.prompt_templates),
            "chat template": adapter.tokenizer.chat_template,
        }
