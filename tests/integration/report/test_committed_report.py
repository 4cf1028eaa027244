"""The committed report: of the present embedded model, with the tables that the code writes."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flmm.evaluate.benchmark import head_fingerprint
from flmm.grounding.grounder import Grounder
from flmm.head.weights import fingerprint_weights
from flmm.report.claim import TRAINING_FREE_SECTION, write_page
from flmm.report.claims import CLAIMS
from flmm.report.segmentation_token.measurement import STEPS

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def embedded_fingerprints() -> dict[str, str]:
    grounder = Grounder.from_pretrained(device="cpu")
    assert grounder.head is not None
    return {
        "head": head_fingerprint(grounder.head, with_scores=False),
        "LMM": fingerprint_weights(grounder.adapter.model),
        "numbers": "float32",
    }


@pytest.mark.parametrize("name", CLAIMS)
def test_results_are_of_the_embedded_model(
    name: str, embedded_fingerprints: dict[str, str]
) -> None:
    claim = CLAIMS[name]
    content = json.loads((DOCS / "report" / f"{name}.json").read_text(encoding="utf-8"))
    made_for = content["made for"]
    assert made_for["claim"] == f"{name} {claim.version}"
    fingerprints = {part: made_for[part] for part in embedded_fingerprints}
    assert fingerprints == embedded_fingerprints
    # Others would be measured anew by `make report`.
    first = json.loads((DOCS / "report" / f"{next(iter(CLAIMS))}.json").read_text(encoding="utf-8"))
    for pictures in ("measured", "calibration"):
        assert made_for[pictures] == first["made for"][pictures]


@pytest.mark.parametrize("name", CLAIMS)
def test_tables_match_results(name: str) -> None:
    claim = CLAIMS[name]
    content = json.loads((DOCS / "report" / f"{name}.json").read_text(encoding="utf-8"))
    results = TypeAdapter(claim.results_type).validate_python(content["results"])
    section = (DOCS / "report" / f"{name}.md").read_text(encoding="utf-8")
    tables = claim.render_tables(results).strip()  # type: ignore[arg-type]
    assert section.startswith(f"## {claim.title}\n\n{tables}\n\n!["), name


def test_copies_were_trained_for_the_stated_steps() -> None:
    content = json.loads((DOCS / "report" / "segmentation-token.json").read_text(encoding="utf-8"))
    assert content["results"]["steps"] == STEPS


def test_page_joins_the_sections(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for name in (*CLAIMS, TRAINING_FREE_SECTION):
        section = (DOCS / "report" / f"{name}.md").read_text(encoding="utf-8")
        (folder / f"{name}.md").write_text(section, encoding="utf-8")
    page = write_page(folder, list(CLAIMS)).read_text(encoding="utf-8")
    assert page == (DOCS / "report.md").read_text(encoding="utf-8")
