"""Loading of heads and LMMs, and which ones are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounding import CONFIG, save_lmm, save_tiny_head, tiny_head

import flmm
from flmm.errors import InputError
from flmm.evaluate.benchmark import mask_model_fingerprint
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.placement import Placement
from flmm.training_free.profile import Profile, save_profile


def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    lmm = save_lmm(folder / "lmm")
    return lmm, save_tiny_head(folder / "head", str(lmm))


def test_from_pretrained(folders: tuple[Path, Path]) -> None:
    grounder = Grounder(LlavaAdapter.build_tiny(), tiny_head())
    lmm, head = folders
    loaded = flmm.Grounder.from_pretrained(head)
    assert (loaded.model, loaded.lmm) == (str(head), str(lmm))
    assert loaded.head is not None
    assert loaded.head.config.segment_prompt == CONFIG.segment_prompt
    expected = grounder.segment(picture(), ["a cat"], refine=False)
    answer = loaded.segment(picture(), ["a cat"], refine=False)
    assert np.array_equal(answer.phrases[0].mask, expected.phrases[0].mask)
    half_precision = Grounder.from_pretrained(
        str(head), lmm=str(lmm), device="cpu", dtype="bfloat16"
    )
    assert half_precision.adapter.dtype == torch.bfloat16
    assert half_precision.head is not None
    assert next(half_precision.head.parameters()).dtype == torch.float32
    phrase = half_precision.segment(picture(), ["a cat"]).phrases[0]
    assert phrase.mask.shape == (48, 48)


def test_results_in_another_number_type_are_others() -> None:
    head, lmm = tiny_head(), LlavaAdapter.build_tiny()
    fingerprints = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        lmm.model.to(dtype)  # type: ignore[arg-type]
        fingerprints.append(mask_model_fingerprint(Grounder(lmm, head)))
    full, half, brain = fingerprints
    assert full == half != brain


def test_masks_are_computed_in_bfloat16_beside_an_lmm_that_is() -> None:
    head = tiny_head()
    half_lmm, lmm = LlavaAdapter.build_tiny(), LlavaAdapter.build_tiny()
    half_lmm.model.to(torch.bfloat16)  # type: ignore[arg-type]
    products: list[torch.dtype] = []
    for module in (head.refiner.segmenter.vision_encoder, head.mask_decoder.classifier):
        module.register_forward_hook(
            lambda _, __, output: products.append(
                output.dtype if isinstance(output, torch.Tensor) else output[0].dtype
            )
        )
    logits = []
    for adapter in (lmm, half_lmm, lmm):
        low_resolution = Grounder(adapter, head).segment(picture(), ["a cat"]).phrases[0].logits
        assert low_resolution is not None
        logits.append(low_resolution.to_picture())
    half, full = torch.bfloat16, torch.float32
    assert products == [full, full, half, half, full, full]
    assert {each.dtype for each in logits} == {full}
    assert torch.equal(logits[0], logits[2])
    float16 = LlavaAdapter.build_tiny()
    float16.model.to(torch.float16)  # type: ignore[arg-type]
    Grounder(float16, head)
    assert head.refiner.segmenter.precision.dtype == full


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 4}, "for 4 layers, 4 heads"),
        ({"heads": 8}, "8 heads"),
        ({"hidden_size": 16}, ""),
    ],
)
def test_head_for_other_sizes_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    head = save_tiny_head(tmp_path, str(folders[0]), **changes)
    with pytest.raises(InputError, match=f"{message}.*; use .*, or leave out the head"):
        Grounder.from_pretrained(head)


def test_other_base_model_is_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    head = save_tiny_head(tmp_path, "someone/their-lmm")
    with pytest.raises(InputError, match="trained on the LMM 'someone/their-lmm', not on 'a/b'"):
        Grounder.from_pretrained(head, lmm="a/b")
    # A folder may hold that same model under any name; its sizes fit.
    assert Grounder.from_pretrained(head, lmm=str(folders[0])).lmm == str(folders[0])
    with pytest.raises(InputError, match="does not name its LMM"):
        Grounder.from_pretrained(save_tiny_head(tmp_path / "nameless", ""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"device": "meta:x"}, "device 'meta:x' cannot be used here"),
        ({"dtype": "int4"}, "dtype 'int4' is unknown; choose one of float32"),
        ({"head": "embedded:tail"}, "there is no 'embedded:tail' in this installation"),
        ({"head": "/nowhere/at/all"}, "is not a folder"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Grounder.from_pretrained(
            options.get("head"), device=options.get("device"), dtype=options.get("dtype")
        )


def test_revision_of_a_profile_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load_lmm("embedded:lmm", Placement("cpu"))
    count = adapter.layers * adapter.heads * adapter.views
    profiles = {
        revision: Profile(
            layers=adapter.layers,
            heads=adapter.heads,
            views=adapter.views,
            base_model_name_or_path="embedded:lmm",
            base_model_type=adapter.model_type,
            head_weights=(weight,) * count,
            num_phrases=1,
            with_masks=False,
        )
        for revision, weight in ((None, 1.0), ("v1", 0.5))
    }

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        path = tmp_path / repo_id / str(revision) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        save_profile(profiles[revision], path)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for revision, profile in profiles.items():
        loaded = Grounder.from_pretrained("someone/profile", sam="none", revision=revision)
        assert loaded.profile == profile


@pytest.mark.parametrize("lmm", [None, "embedded:lmm"])
def test_revision_without_head_or_profile_is_refused(lmm: str | None) -> None:
    with pytest.raises(InputError, match=r"revision 'v1' is of a head or profile .*name it"):
        Grounder.from_pretrained(lmm=lmm, sam="none", revision="v1")
