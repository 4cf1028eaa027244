"""Similarity of generated and true phrases under a text encoder, computed from a run's rows.

The encoder has no part in the run: another one only makes this file of the results anew.
"""

from collections import defaultdict
from pathlib import Path

from flmm.errors import InputError
from flmm.evaluate.benchmark import Scoring, change_run_record, read_run_record
from flmm.evaluate.results import read_rows, write_rows
from flmm.evaluate.rows import GeneratedPhraseRow, PhraseRow, SimilarityRow
from flmm.evaluate.text_encoder import TextEncoder
from flmm.progress import ProgressCallback, no_progress


def check_can_be_compared(scoring: str) -> None:
    """Check that a benchmark's phrases can be compared by a text encoder.

    Raises:
        InputError: its LMM says no phrases of its own.
    """
    if scoring != Scoring.CONVERSATION:
        raise InputError(
            "--text-encoder compares the phrases that an LMM says with true ones, which only"
            " grounded_conversation has; leave it out"
        )


def compare_phrases(
    out: Path, encoder: TextEncoder, on_progress: ProgressCallback = no_progress
) -> None:
    """Write each caption's similarities to ``out``, and the encoder's name to its ``run.json``.

    Raises:
        InputError: the run is not finished, is of another benchmark, or cannot be written.
    """
    check_can_be_compared(read_run_record(out).scoring)
    true: dict[tuple[int, str], list[PhraseRow]] = defaultdict(list)
    for row in read_rows(out, PhraseRow):
        true[row.sample, row.text_identity].append(row)
    generated = read_rows(out, GeneratedPhraseRow)
    encoder.embed(
        [row.text for row in generated] + [row.text for rows in true.values() for row in rows],
        on_progress,
    )
    similarities = []
    for said in generated:
        rows = true[said.sample, said.text_identity]
        if not rows:
            continue
        values = encoder.embed([row.text for row in rows]) @ encoder.embed([said.text])[0]
        similarities += [
            SimilarityRow(said.sample, said.text_identity, said.phrase, row.phrase, value)
            for row, value in zip(rows, values.tolist(), strict=True)
        ]
    # A run that is killed here must not call the new similarities the old encoder's.
    change_run_record(out, text_encoder="")
    write_rows(out, SimilarityRow, similarities)
    change_run_record(out, text_encoder=encoder.name)
