"""``docs/families.md``, rendered from ``supported_types.json``."""

from collections import Counter
from collections.abc import Mapping

from flmm.lmm.supported_types import Reader, SupportedType, SupportedTypes

_HEADER = """# The types of LMMs, and what flmm does with each

transformers {version} has {count} types that read pictures and write text. Written by
`python scripts/check_families.py` from small random models, one a type: do not edit.

{counts}

- **Read by**: a file of its own in `src/flmm/lmm/families/`, or the generic adapter, which finds
  out where image tokens lie. *Text only*: the LMM chats; its words have no masks. *No*: refused.
- **Verified**: its small random model passes all of `tests/contract/`: recorded attention is eager
  attention's to 1e-5 and changes no answer, prompts are its own processor's token by token, and
  every image token lies where flmm says. What is not verified is tried all the same, and refused
  with a line where the layout cannot be found. `flmm models --check LMM` checks a real model.
- **Grids** of image tokens for each picture: 2 where tiles come beside the whole picture.
- **torchvision**: needed, since transformers has the type's image processor for it alone.

"""
_READERS: Mapping[Reader, str] = {
    "own file": "its own file",
    "generic adapter": "the generic adapter",
    "text only": "text only",
    "none": "no",
}


def render_document(content: SupportedTypes) -> str:
    """Return the page: a summary, and a row for each type."""
    header = _HEADER.format(
        version=content.transformers, count=len(content.types), counts=_render_counts(content.types)
    )
    titles = (
        "type", "for example", "read by", "verified", "grids", "recorded", "torchvision", "why not"
    )  # fmt: skip
    lines = [titles, ("---",) * len(titles), *map(_render_row, content.types)]
    return header + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _render_counts(types: tuple[SupportedType, ...]) -> str:
    counts = Counter((entry.reader, entry.verified) for entry in types)
    lines = ["| read by | types | of them verified |", "| --- | ---: | ---: |"]
    for reader, label in _READERS.items():
        verified, others = counts[reader, True], counts[reader, False]
        lines.append(f"| {label} | {verified + others} | {verified or '–'} |")
    return "\n".join(lines)


def _render_row(entry: SupportedType) -> tuple[str, ...]:
    return (
        f"`{entry.model_type}`",
        f"`{entry.example}`" if entry.example else "–",
        _READERS[entry.reader],
        "yes" if entry.verified else "no",
        "–" if entry.views is None else str(entry.views),
        entry.recorded or "–",
        "needed" if entry.needs_torchvision else "–",
        (entry.reason or "–").replace("|", "\\|"),
    )
