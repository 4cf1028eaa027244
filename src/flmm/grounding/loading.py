"""Loading of a grounder's models by name: an LMM, and a head or a segmenter."""

from dataclasses import dataclass
from pathlib import Path

from flmm.errors import InputError
from flmm.head.checkpoint import CONFIG_NAME, check_compatible, load_config, load_head, resolve_lmm
from flmm.head.model import GroundingHead
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.model_names import check_named_folder
from flmm.lmm.placement import Placement
from flmm.lmm.places import check_places
from flmm.segmenters.auto import load_segmenter
from flmm.segmenters.base import Segmenter
from flmm.training_free.masks import TRAINING_FREE
from flmm.training_free.profile import (
    PROFILE_NAME,
    Profile,
    check_profile,
    download_profile,
    load_profile,
)
from flmm.user_input import EMBEDDED_HEAD, check_text, is_embedded

DEFAULT_SEGMENTER = "facebook/sam2.1-hiera-small"
"""The SAM of masks without a head: 39 M parameters, Apache-2.0."""
NO_SEGMENTER = "none"
"""The name that stands for masks from attention alone."""


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """The models of a grounder, and their names in answers."""

    adapter: LMMAdapter
    head: GroundingHead | None
    segmenter: Segmenter | None
    """Of masks without a head."""
    profile: Profile | None
    """Of masks without a head."""
    model: str
    """The head's, or "training-free"."""
    lmm: str

    @property
    def models(
        self,
    ) -> tuple[LMMAdapter, GroundingHead | None, Segmenter | None, Profile | None]:
        """The first arguments of ``Grounder``."""
        return self.adapter, self.head, self.segmenter, self.profile


def load_models(
    head: str | None,
    lmm: str | None,
    sam: str | None,
    placement: Placement,
    revision: str | None = None,
) -> LoadedModels:
    """Load an LMM with a head, or without one where only the LMM is named.

    Args:
        head: a folder or hub id, or a profile's file; None for none if an LMM is named, else for
            the embedded one.
        lmm: a folder or hub id; None for the one that the head or profile is of.
        sam: a folder or hub id of the SAM that makes the masks, "none" for masks from attention
            alone; None for the head's or, without one, ``DEFAULT_SEGMENTER``.
        placement: of the LMM.
        revision: of the head's or profile's hub id.

    Raises:
        InputError: a model cannot be found or read, or they do not belong together; or there is a
            revision, and neither head nor profile is named.
    """
    _check_names(head, lmm, sam)
    if head is None and revision is not None:
        raise InputError(
            f"revision {revision!r} is of a head or profile on the hub, and none is named; name it"
            " (head=), or leave out the revision"
        )
    profile = find_profile(head, revision)
    if profile is not None:
        lmm = lmm or _named_lmm(profile)
    if profile is not None or (head is None and lmm is not None):
        assert lmm is not None
        # First the small one, so that its errors need not wait for the LMM.
        segmenter = _load_segmenter(sam)
        adapter = load_lmm(lmm, placement)
        return LoadedModels(adapter, None, segmenter, profile, TRAINING_FREE, lmm)
    name = EMBEDDED_HEAD if head is None else head
    if sam == NO_SEGMENTER:
        # First, whether it is a head at all.
        load_config(name, revision)
        raise InputError(
            f"SAM {sam!r} is for masks without a head, and {name!r} is a head; leave out the head"
            " and name the LMM, or leave out the refinement"
        )
    segmenter = None if sam is None else load_segmenter(sam)
    trained = load_head(name, segmenter, revision)
    lmm, lmm_revision = resolve_lmm(name, trained.config, lmm)
    adapter = load_lmm(lmm, placement, lmm_revision)
    return LoadedModels(adapter, trained, None, None, name, lmm)


def load_lmm_alone(head: str | None, lmm: str | None, placement: Placement) -> LoadedModels:
    """Load the LMM that ``load_models`` would load, and neither a head nor a SAM.

    Raises:
        InputError: it cannot be found or read, or is not that of the head.
    """
    _check_names(head, lmm)
    lmm_revision = None
    profile = find_profile(head)
    if profile is not None:
        lmm = lmm or _named_lmm(profile)
    elif head is not None or lmm is None:
        name = EMBEDDED_HEAD if head is None else head
        lmm, lmm_revision = resolve_lmm(name, load_config(name), lmm)
    adapter = load_lmm(lmm, placement, lmm_revision)
    return LoadedModels(adapter, None, None, None, TRAINING_FREE, lmm)


def _check_names(head: str | None, lmm: str | None, sam: str | None = None) -> None:
    for kind, name in (("head", head), ("LMM", lmm), ("SAM", sam)):
        if name is not None:
            check_text(f"name of the {kind}", name)


def check_together(
    adapter: LMMAdapter,
    head: GroundingHead | None,
    segmenter: Segmenter | None,
    profile: Profile | None,
) -> None:
    """Check that the models of a grounder belong together.

    Raises:
        InputError: the head or profile is for another LMM, the LMM's image tokens have no places,
            or a head is given beside the parts of masks without one.
    """
    if head is not None or profile is not None:
        check_places(adapter)
    if head is not None:
        check_compatible(head.config, adapter)
        if segmenter is not None or profile is not None:
            raise InputError("a head takes neither segmenter nor profile; leave them or it out")
    if profile is not None:
        check_profile(profile, adapter)


def _named_lmm(profile: Profile) -> str:
    """Return the name of a profile's LMM; if it is a folder, it is here."""
    check_named_folder(profile.base_model_name_or_path, "profile", "LMM", "lmm")
    return profile.base_model_name_or_path


def find_profile(name: str | None, revision: str | None = None) -> Profile | None:
    """Return the profile in a file or in a hub repository; None where the name is a head's.

    Args:
        name: a file, a folder or a hub id.
        revision: of a hub id.

    Raises:
        InputError: the file is no profile, or the folder is also a head's.
    """
    if name is None or is_embedded(name):
        return None
    path = Path(name).expanduser()
    if path.is_file():
        return load_profile(path)
    if path.is_dir():
        inside = path / PROFILE_NAME
        if inside.is_file() and (path / CONFIG_NAME).is_file():
            raise InputError(
                f"{name} holds a head and a profile; name the profile's file, or move it elsewhere"
            )
        return load_profile(inside) if inside.is_file() else None
    return download_profile(name, revision)


def _load_segmenter(sam: str | None) -> Segmenter | None:
    if sam == NO_SEGMENTER:
        return None
    if sam is not None:
        return load_segmenter(sam)
    try:
        return load_segmenter(DEFAULT_SEGMENTER)
    except InputError as error:
        raise InputError(
            f"masks without a head come from the SAM {DEFAULT_SEGMENTER!r}, which is not on this"
            " machine and cannot be downloaded; go online once, name the folder of another SAM"
            " (--sam FOLDER), or do without one (--sam none)"
        ) from error
