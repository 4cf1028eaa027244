"""``--text-encoder`` of ``flmm evaluate``: phrases compared as in GCG's published recall."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import show_progress

if TYPE_CHECKING:
    from flmm.evaluate.score_tables import EvaluationReport
    from flmm.evaluate.text_encoder import TextEncoder

TextEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="FOLDER_OR_HUB_ID",
        show_default=False,
        help="For grounded_conversation, also with --table: give the published mask recall, by the "
        "similarity of phrases under this encoder, such as bert-base-uncased.",
    ),
]


def load_text_encoder(name: str | None, scoring: str, device: str | None) -> "TextEncoder | None":
    """Load the text encoder for a run of this scoring; None without a name."""
    if name is None:
        return None
    from flmm.evaluate.phrase_similarity import check_can_be_compared
    from flmm.evaluate.text_encoder import TextEncoder

    check_can_be_compared(scoring)
    return TextEncoder.from_pretrained(name, device)


def compare_and_report(out: Path, encoder: "TextEncoder | None") -> "EvaluationReport":
    """Compare the phrases of a finished run, if there is an encoder, and return its tables."""
    from flmm.evaluate.phrase_similarity import compare_phrases
    from flmm.evaluate.reports import build_report

    if encoder is not None:
        with show_progress() as on_progress:
            compare_phrases(out, encoder, on_progress)
    return build_report(out)
