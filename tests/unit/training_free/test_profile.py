import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_grounding import tiny_head

from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.profile import (
    FORMAT_VERSION,
    Profile,
    load_profile,
    push_profile_to_hub,
    save_profile,
)


@pytest.fixture(scope="module")
def adapter() -> LMMAdapter:
    return LlavaAdapter.build_tiny()


@pytest.fixture
def profile(adapter: LMMAdapter) -> Profile:
    count = adapter.views * adapter.layers * adapter.heads
    return Profile(
        layers=adapter.layers,
        heads=adapter.heads,
        views=adapter.views,
        base_model_name_or_path="models/größe",
        base_model_type=adapter.model_type,
        head_weights=tuple(round(index / count, 4) for index in range(count)),
        num_phrases=7,
        with_masks=True,
    )


@pytest.fixture
def file(profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    save_profile(profile, path)
    return path


def change(file: Path, **changes: object) -> None:
    """Set fields of the file; None takes one away."""
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


def assert_refused(file: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        load_profile(file)
    assert "\n" not in str(refused.value)


def test_saved_profile_is_loaded(profile: Profile, file: Path) -> None:
    assert load_profile(file) == profile
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    other = replace(profile, with_masks=False)
    save_profile(other, file)
    assert load_profile(file) == other


def test_folder_of_the_lmm_is_found_from_another_working_directory(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/lmm").mkdir(parents=True)
    Path("profiles").mkdir()
    save_profile(replace(profile, base_model_name_or_path="models/lmm"), Path("profiles/a.json"))
    monkeypatch.chdir("profiles")
    assert load_profile(Path("a.json")).base_model_name_or_path == str(tmp_path / "models/lmm")


def test_folder_of_the_lmm_inside_that_of_the_profile_moves_with_it(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old/lmm").mkdir(parents=True)
    save_profile(replace(profile, base_model_name_or_path="old/lmm"), Path("old/a.json"))
    Path("old").rename("new")
    assert load_profile(Path("new/a.json")).base_model_name_or_path == str(tmp_path / "new/lmm")


def test_profile_that_names_a_folder_is_not_uploaded(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    of_folder = replace(profile, base_model_name_or_path=str(tmp_path))
    with pytest.raises(InputError, match=r"LMM is the folder .*; name the LMM by its hub id"):
        push_profile_to_hub(of_folder, "someone/profile")


def test_profile_that_cannot_be_written_is_refused(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*choose another place"):
        save_profile(profile, tmp_path / "missing" / "profile.json")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[1,\n2}", b"[" * 300])
def test_damaged_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert_refused(file, r"cannot read the profile .*profile\.json")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "profile.json", r"cannot read the profile .*profile\.json")


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"kind": "head"}'])
def test_other_file_is_refused(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    assert_refused(file, r"profile\.json is no profile; give one that flmm calibrate wrote")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"has format_version {FORMAT_VERSION + 1}, this"),
        ({"format_version": None}, "has format_version None"),
        ({"colour": "red"}, "colour: Unexpected keyword"),
        ({"layers": None}, "layers: .*required"),
        ({"layers": "3"}, "layers: .*integer"),
        ({"layers": 10**400}, "layers: "),
        ({"heads": 2.5}, "heads: .*integer"),
        ({"views": [1]}, "views: .*integer"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path: .*string"),
        ({"base_model_name_or_path": ""}, "base_model_name_or_path: .*at least 1 character"),
        ({"num_phrases": -3}, "num_phrases: "),
        ({"head_weights": [0.5]}, "1 head weights for 12 heads"),
        ({"head_weights": "1" * 12}, "head_weights: .*tuple"),
        ({"head_weights": 3}, "head_weights: .*tuple"),
        ({"head_weights": [0.5] * 11 + [[1]]}, "head_weights.11: .*number"),
        ({"head_weights": ["0.5"] * 12}, "head_weights.0: .*number"),
        ({"head_weights": [True] * 12}, "head_weights.0: .*number"),
        ({"head_weights": [0.5] * 11 + [10**400]}, "head_weights.11: "),
        ({"head_weights": [0.5] * 11 + [1.5]}, "head_weights.11: .*less than or equal to 1"),
        ({"head_weights": [0.5] * 11 + [-0.1]}, "head_weights.11: .*greater than or equal to 0"),
        ({"head_weights": [0.5] * 11 + [float("nan")]}, "head_weights.11: .*finite"),
        ({"head_weights": [0.0] * 12}, "all head weights are 0"),
    ],
)
def test_changed_file_is_refused(file: Path, changes: dict[str, object], message: str) -> None:
    change(file, **changes)
    assert_refused(file, message)


def test_grounder_takes_the_profile_of_its_lmm(adapter: LMMAdapter, profile: Profile) -> None:
    assert Grounder(adapter, profile=profile).profile == profile


@pytest.mark.parametrize(
    "changes", [{"layers": 4, "heads": 3}, {"base_model_type": "qwen2_vl"}], ids=["size", "type"]
)
def test_profile_of_another_lmm_is_refused(
    adapter: LMMAdapter, profile: Profile, changes: dict[str, object]
) -> None:
    other = replace(profile, **changes)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"is of 'models/größe'.*is another.*calibrate it"
    ) as error:
        Grounder(adapter, profile=other)
    assert "\n" not in str(error.value)


def test_profile_or_segmenter_beside_a_head_is_refused(
    adapter: LMMAdapter, profile: Profile
) -> None:
    with pytest.raises(InputError, match="a head takes neither segmenter nor profile"):
        Grounder(adapter, tiny_head(), profile=profile)
    with pytest.raises(InputError, match="a head takes neither segmenter nor profile"):
        Grounder(adapter, tiny_head(), segmenter=SamSegmenter.build_tiny())
