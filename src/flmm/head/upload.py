"""A head on the hub: its model card, and the upload."""

import tempfile
from pathlib import Path

from flmm.head.checkpoint import save_head
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.lmm.hub import upload_folder
from flmm.lmm.model_names import check_public_name, is_hub_id


def push_head_to_hub(head: GroundingHead, repo_id: str, private: bool = False) -> str:
    """Upload a head with a short model card; needs a hub login.

    The LMM and SAM are named, not uploaded.

    Args:
        head: the head.
        repo_id: "owner/name", created if it is missing.
        private: whether a new repository is private.

    Returns:
        The repository's URL.

    Raises:
        InputError: the hub cannot be reached or refuses, or the head's LMM or SAM is a folder.
    """
    _check_public_names(head.config)
    with tempfile.TemporaryDirectory() as folder:
        save_head(head, folder)
        card = build_model_card(head.config)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        return upload_folder(Path(folder), "head", repo_id, private)


def _check_public_names(config: HeadConfig) -> None:
    """Check that others can load the LMM and SAM that a head names."""
    for role, field, name in (
        ("LMM", "base_model_name_or_path", config.base_model_name_or_path),
        ("SAM", "refiner_name_or_path", config.refiner_name_or_path),
    ):
        check_public_name(
            name,
            "head",
            role,
            f"put its hub id in {field} of the head's config.json, then load and upload the head",
        )


def build_model_card(config: HeadConfig, results: str = "") -> str:
    """Return the README of a head's folder or repository; ``results`` is Markdown."""
    name = config.base_model_name_or_path
    # The hub takes only its own ids here.
    base_model = f"base_model: {name}\n" if is_hub_id(name) else ""
    return (
        f"---\nlibrary_name: flmm\npipeline_tag: image-segmentation\n{base_model}---\n\n"
        f"A grounding head of [flmm](https://arxiv.org/abs/2406.05821): masks for what "
        f"`{name or 'its LMM'}` says, which itself stays untouched.\n"
        f"{results}"
    )
