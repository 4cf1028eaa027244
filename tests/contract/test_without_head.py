"""Every command works with an LMM alone: with a SAM, and with masks from attention alone."""

import json
from pathlib import Path

import httpx
import pytest
from command import run_in_process
from contract_helpers import noise_picture
from serving import data_url, encode_picture, run_server

from flmm.data.fixtures import write_plain
from flmm.data.sources import PlainSource
from flmm.errors import InputError
from flmm.grounding.chain_of_thought import check_two_pictures
from flmm.grounding.grounder import Grounder
from flmm.lmm.base import LMMAdapter
from flmm.progress import no_progress
from flmm.report.ablations.map_sources import MapSource, MapSources
from flmm.report.context import ReportContext
from flmm.report.data import read_source_data
from flmm.report.ground import measurement as ground
from flmm.segmenters.base import Segmenter
from flmm.segmenters.sam import SamSegmenter
from flmm.serve.settings import ServerSettings
from flmm.training_free.baselines.by_name import BASELINES

QUESTION = "what is it?"
CAPTION = "The cat and the dog sleep on the grass."


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return SamSegmenter.build_tiny()


@pytest.fixture(params=["tiny", "none"])
def sam_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: LMMAdapter, segmenter: Segmenter
) -> None:
    """The current folder, with a picture and a data set; ``tiny`` are the LMM and the SAM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flmm.grounding.loading.load_lmm", lambda *_: adapter)
    monkeypatch.setattr("flmm.grounding.loading.load_segmenter", lambda _: segmenter)
    noise_picture().save("picture.png")
    write_plain(tmp_path / "data", 2)


def run(capsys: pytest.CaptureFixture[str], sam_name: str, *arguments: str) -> dict[str, object]:
    options = ["--lmm", "tiny", "--sam", sam_name, "--device", "cpu", "--json"]
    ended = run_in_process([*arguments, *options], capsys)
    assert (ended.code, ended.err) == (0, "")
    content = json.loads(ended.out)
    assert isinstance(content, dict)
    return content


@pytest.mark.usefixtures("workspace")
def test_commands(adapter: LMMAdapter, sam_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--max-new-tokens", "4")
    answer = run(capsys, sam_name, "chat", "picture.png", QUESTION, *short)
    assert (
        answer["text"] == adapter.generate(adapter.build_prompt(noise_picture(), QUESTION), 4).text
    )
    grounded = run(capsys, sam_name, "ground", "picture.png", CAPTION)
    assert [phrase["text"] for phrase in grounded["phrases"]] == [  # type: ignore[attr-defined]
        "The cat", "the dog", "the grass",
    ]  # fmt: skip
    segmented = run(capsys, sam_name, "segment", "picture.png", "the cat", "grass")
    assert segmented["text"] == "the cat, grass"
    for content in (answer, grounded, segmented):
        assert (content["model"], content["lmm"]) == ("training-free", "tiny")
    Path("list.jsonl").write_text(
        f'{{"image": "picture.png", "question": "{QUESTION}"}}\n'
        '{"image": "picture.png", "phrases": ["the cat"]}\n'
        f'{{"image": "picture.png", "text": "{CAPTION}"}}\n'
    )
    counts = run(capsys, sam_name, "batch", "list.jsonl", *short)
    assert (counts["pictures"], counts["failed"]) == (3, 0)
    results = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    assert results[2]["answer"]["phrases"] == grounded["phrases"]
    table = run(capsys, sam_name, "evaluate", "plain", "--file", "data/texts.jsonl")
    assert table["model"] == "training-free"
    if sam_name != "none":  # what is measured then is the same without SAM's time
        cost = run(capsys, sam_name, "bench", "ground", "--repeats", "1")
        assert cost["phrases"] == 8


@pytest.mark.usefixtures("workspace")
def test_think(adapter: LMMAdapter, sam_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("think", "picture.png", QUESTION, "--max-new-tokens", "4")
    try:
        check_two_pictures(adapter, "tiny")
    except InputError:
        options = ["--lmm", "tiny", "--sam", sam_name, "--json"]
        ended = run_in_process([*arguments, *options], capsys)
        assert ended.code == 2
        assert "cannot be shown a picture and a part of it" in ended.err
        return
    thought = run(capsys, sam_name, *arguments, "--locate", "question")
    assert isinstance(thought["answer"], dict)
    assert thought["answer"]["model"] == "training-free"


@pytest.mark.usefixtures("workspace")
def test_attend(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--lmm", "tiny", "--device", "cpu", "--json"]
    arguments = ["attend", "picture.png", QUESTION, "--answer", CAPTION, "--word", "dog"]
    ended = run_in_process([*arguments, *options], capsys)
    assert (ended.code, ended.err) == (0, "")
    (word,) = json.loads(ended.out)["words"]
    assert word["text"] == "dog"


def test_report(adapter: LMMAdapter, segmenter: Segmenter, tmp_path: Path) -> None:
    write_plain(tmp_path / "data", 2)
    source = PlainSource(name="plain", file=tmp_path / "data" / "texts.jsonl")
    data = read_source_data(source, tmp_path, max_pictures=1, calibration=1, training=0)
    messages: list[str] = []
    context = ReportContext(
        Grounder(adapter, segmenter=segmenter), data, tmp_path, messages.append, no_progress
    )
    methods = ground.measure(context).methods
    assert "training-free" in methods
    # Some tiny LMMs have only two layers, whose heads are never localization heads.
    unsuitable = {
        name
        for name, method in BASELINES.items()
        if method.needs_image_tokens_in_sequence and not adapter.image_tokens_in_sequence
    }
    left_out = set(BASELINES) - set(methods)
    assert unsuitable <= left_out <= unsuitable | {"localization-heads"}
    assert {line.split(": left out")[0] for line in messages} == left_out
    available = MapSources(context).available
    assert (MapSource.SIMILARITY in available) == adapter.image_tokens_in_sequence


@pytest.mark.parametrize("with_sam", [True, False])
def test_server(adapter: LMMAdapter, segmenter: Segmenter, with_sam: bool) -> None:
    grounder = Grounder(adapter, segmenter=segmenter if with_sam else None, lmm="tiny")
    picture = data_url(encode_picture(noise_picture()))
    with (
        run_server(grounder, ServerSettings(port=0)) as address,
        httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
    ):
        health = client.get("/healthz").json()
        assert (health["model"], health["lmm"]) == ("training-free", "tiny")
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
            "training-free"
        ]
        body = {"image": picture, "text": CAPTION}
        grounded = client.post("/v1/ground", json=body).json()
        expected = grounder.ground(noise_picture(), CAPTION).to_dict()
        assert [phrase["mask"] for phrase in grounded["phrases"]] == [
            phrase["mask"] for phrase in expected["phrases"]
        ]
        segment_body = {"image": picture, "phrases": ["the cat"]}
        assert client.post("/v1/segment", json=segment_body).json()["model"] == "training-free"
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": QUESTION},
        ]
        chat = client.post(
            "/v1/chat/completions",
            json={
                "model": "training-free",
                "messages": [{"role": "user", "content": content}],
                "grounding": {},
                "max_tokens": 4,
            },
        )
        assert chat.status_code == 200
