"""``flmm calibrate``, and its profiles in the other commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import CommandResult, run_in_process
from pycocotools import mask as coco
from tiny_grounding import save_lmm

import flmm
from flmm.cli import console
from flmm.lmm.auto import load_lmm
from flmm.lmm.placement import Placement
from flmm.training_free.profile import Profile, load_profile
from flmm.user_input import resolve_model

PICTURES = Path(flmm.__file__).parent / "assets" / "pictures"
DEMO = str(PICTURES / "demo.png")
EMBEDDED = ("--lmm", "embedded:lmm")
STICKERS = "{kind: stickers, name: stickers, folder: drawn, scenes: 2, first_scene: 20000000}"
QUESTION = "What is in the picture?"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def calibrate(capsys: Capture, *arguments: str) -> CommandResult:
    return run_in_process(["calibrate", *arguments, "--device", "cpu"], capsys)


def assert_refused(ended: CommandResult, *parts: str) -> None:
    """Exit code 2, nothing on standard output, one line on standard error, no file."""
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("flmm: ")
    assert ended.err.count("\n") == 1
    assert all(part in ended.err for part in parts), ended.err
    assert not list(Path.cwd().glob("*profile.json"))


def assert_fits_embedded_lmm(profile: Profile) -> None:
    adapter = load_lmm("embedded:lmm", Placement(device="cpu"))
    sizes = (profile.layers, profile.heads, profile.views)
    assert sizes == (adapter.layers, adapter.heads, adapter.views)
    assert profile.base_model_type == adapter.model_type
    assert profile.base_model_name_or_path == "embedded:lmm"
    assert len(set(profile.head_weights)) > 1


def run_segment(capsys: Capture, *arguments: str) -> dict[str, object]:
    phrases = ["segment", DEMO, "the dog", "the grass", "--sam", "none", "--device", "cpu"]
    ended = run_in_process([*phrases, "--json", *arguments], capsys)
    assert (ended.code, ended.err) == (0, "")
    answer: dict[str, object] = json.loads(ended.out)
    return answer


def masks_of(answer: dict[str, object]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    phrases = answer["phrases"]
    assert isinstance(phrases, list)
    masks = [coco.decode(phrase["mask"]) for phrase in phrases]
    for phrase, mask in zip(phrases, masks, strict=True):
        assert phrase["area"] == mask.sum() > 0
    return np.stack(masks)


def test_profile_from_pictures_works_as_the_model(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    ended = calibrate(capsys, *EMBEDDED, str(PICTURES))
    assert (ended.code, ended.err) == (0, "")
    assert ended.progress[0] == "flmm: 1 of 4: calibrating\n"
    assert ended.progress[-1] == "flmm: 4 of 4, 0:00:00 left: calibrating\n"
    assert len(ended.progress) == 4
    profile = load_profile(Path("flmm-profile.json"))
    assert_fits_embedded_lmm(profile)
    assert not profile.with_masks
    assert ended.out.startswith(f"Profile of {profile.num_phrases} phrases: flmm-profile.json\n")
    assert [path.name for path in Path.cwd().iterdir()] == ["flmm-profile.json"]

    with_profile = run_segment(capsys, "--model", "flmm-profile.json")
    without = run_segment(capsys, *EMBEDDED)
    for answer in (with_profile, without):
        assert (answer["model"], answer["lmm"]) == ("training-free", "embedded:lmm")
    masks = masks_of(with_profile)
    assert masks.shape == (2, 384, 384)
    for mask, same_phrase in zip(masks, masks_of(without), strict=True):
        assert not np.array_equal(mask, same_phrase)

    chat = ["chat", DEMO, QUESTION, "--sam", "none", "--device", "cpu", "--json"]
    answers = []
    for model in (["--model", "flmm-profile.json"], EMBEDDED):
        ended = run_in_process([*chat, *model], capsys)
        assert (ended.code, ended.err) == (0, "")
        answers.append(json.loads(ended.out))
    assert answers[0]["model"] == "training-free"
    assert answers[0]["text"] == answers[1]["text"]
    assert len(answers[0]["phrases"]) > 3
    assert not np.array_equal(masks_of(answers[0]), masks_of(answers[1]))


def test_profile_of_a_folder_is_used_in_another_one(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy of the embedded LMM, since one of random weights names nothing in a picture.
    shutil.copytree(resolve_model("embedded:lmm"), "my-lmm")
    Path("elsewhere").mkdir()
    out = ("--out", "elsewhere/profile.json")
    assert calibrate(capsys, "--lmm", "my-lmm", DEMO, *out).code == 0
    monkeypatch.chdir("elsewhere")
    assert run_segment(capsys, "--model", "profile.json")["lmm"] == str(tmp_path / "my-lmm")
    (tmp_path / "my-lmm").rename(tmp_path / "moved")
    arguments = ["segment", DEMO, "the dog", "--sam", "none", "--device", "cpu"]
    ended = run_in_process([*arguments, "--model", "profile.json"], capsys)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"the profile names the folder '{tmp_path / 'my-lmm'}' as its LMM" in ended.err
    named = run_segment(capsys, "--model", "profile.json", "--lmm", str(tmp_path / "moved"))
    assert named["lmm"] == str(tmp_path / "moved")


def test_profile_from_masks(capsys: Capture) -> None:
    Path("data.yaml").write_text(STICKERS, encoding="utf-8")
    arguments = (*EMBEDDED, "--data", "data.yaml", "--out", "masks-profile.json", "--json")
    ended = calibrate(capsys, *arguments)
    assert (ended.code, ended.err) == (0, "")
    profile = load_profile(Path("masks-profile.json"))
    expected = {"out": "masks-profile.json", "url": None, "phrases": profile.num_phrases}
    assert json.loads(ended.out) == expected
    assert_fits_embedded_lmm(profile)
    assert profile.with_masks
    answer = run_segment(capsys, "--model", "masks-profile.json")
    assert answer["model"] == "training-free"
    assert not np.array_equal(masks_of(answer), masks_of(run_segment(capsys, *EMBEDDED)))


def test_picture_that_cannot_be_read_costs_one_line(capsys: Capture) -> None:
    """Damaged or missing, it changes nothing about the profile of the others."""
    folder = Path("pictures")
    (folder / "inner").mkdir(parents=True)
    shutil.copy(DEMO, folder / "inner" / "b.png")
    assert calibrate(capsys, *EMBEDDED, "pictures", "--out", "good.json").code == 0
    (folder / "a.png").write_bytes(Path(DEMO).read_bytes()[:2000])
    ended = calibrate(capsys, *EMBEDDED, "pictures", "missing.png", "--out", "all.json")
    assert ended.code == 0
    damaged, missing = ended.err.splitlines()
    assert damaged.startswith("flmm: skipped ")
    assert "a.png" in damaged
    assert missing.startswith("flmm: skipped ")
    assert "missing.png" in missing
    assert load_profile(Path("all.json")) == load_profile(Path("good.json"))


def test_mistakes_are_refused_before_the_lmm_is_loaded(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flmm.grounding.loading.load_lmm", None)
    Path("empty").mkdir()
    Path("data.yaml").write_text(STICKERS, encoding="utf-8")
    Path("other.yaml").write_text("{kind: moon, name: moon}", encoding="utf-8")
    give = "give PICTURES or --data FILE"
    assert_refused(calibrate(capsys, *EMBEDDED), give)
    assert_refused(calibrate(capsys, *EMBEDDED, DEMO, "--data", "data.yaml"), give)
    assert_refused(calibrate(capsys, *EMBEDDED, "empty"), "no picture in empty")
    assert_refused(calibrate(capsys, *EMBEDDED, DEMO, "--out", "empty"), "'empty' is a folder")
    assert_refused(calibrate(capsys, *EMBEDDED, "--data", "nowhere.yaml"), "'nowhere.yaml'")
    assert_refused(calibrate(capsys, *EMBEDDED, "--data", "other.yaml"), "moon")
    Path("my-lmm").mkdir()
    push = ("--push-to-hub", "someone/profile")
    assert_refused(calibrate(capsys, "--lmm", "my-lmm", DEMO, *push), "the folder 'my-lmm'")
    out = "nowhere/profile.json"
    assert_refused(calibrate(capsys, *EMBEDDED, DEMO, "--out", out), "no folder 'nowhere'")


def test_no_readable_picture_is_refused(capsys: Capture) -> None:
    Path("damaged.png").write_bytes(Path(DEMO).read_bytes()[:2000])
    ended = calibrate(capsys, *EMBEDDED, "damaged.png")
    assert (ended.code, ended.out) == (2, "")
    skipped, refused = ended.err.splitlines()
    assert "skipped" in skipped
    assert "there is no phrase to calibrate on in any picture that can be used" in refused
    assert not Path("flmm-profile.json").exists()


def test_profile_of_another_lmm_is_refused(capsys: Capture, tmp_path: Path) -> None:
    assert calibrate(capsys, *EMBEDDED, DEMO).code == 0
    lmm = save_lmm(tmp_path / "lmm")
    arguments = ["segment", DEMO, "the dog", "--model", "flmm-profile.json", "--lmm", str(lmm)]
    ended = run_in_process([*arguments, "--sam", "none", "--device", "cpu"], capsys)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert "the profile is of 'embedded:lmm'" in ended.err
