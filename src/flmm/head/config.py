"""The head's configuration: its sizes, switches, and the frozen models that it was trained on.

Letters: ``h w`` image-token grid.
"""

from dataclasses import dataclass

from torch import Tensor

from flmm.attention.merge import MergeMethod
from flmm.errors import InputError
from flmm.head.phrase_score import ScoreCalibration
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.architecture import LMMArchitecture
from flmm.masks.selector import DEFAULT_THRESHOLD


@dataclass(frozen=True)
class HeadConfig:
    """The configuration of a head: its sizes, options, and the frozen models it was trained on."""

    layers: int
    heads: int
    hidden_size: int
    views: int = 1
    """Sets of maps a phrase; 2 for a tiled LMM: its coarse and its fine view."""
    base_channels: int = 64
    stages: int = 4
    upsample_input: int = 64
    merge: MergeMethod = "mean"
    kept_maps: tuple[int, ...] | None = None
    """Which of the ``views * layers * heads`` maps the decoder gets, ascending; None for all."""
    normalise: bool = True
    """Whether each map is divided by its sum before decoding."""
    refine: bool = True
    """Whether SAM refines the decoder's masks; if not, the decoder's masks are the result."""
    use_mask: bool = True
    use_box: bool = True
    use_text: bool = True
    selector: bool = False
    selector_width: int = 256
    selector_threshold: float = DEFAULT_THRESHOLD
    segment_prompt: str = ""
    """The question whose given answer is a phrase to segment (``PromptTemplates.segment``); empty
    for flmm's default."""
    caption_prompt: str = ""
    """The question whose given answer is a caption, to train or evaluate on; empty for flmm's
    default."""
    base_model_name_or_path: str = ""
    base_model_revision: str | None = None
    base_model_type: str = ""
    """The LMM's ``model_type``; empty in heads of older versions."""
    refiner_name_or_path: str = "facebook/sam-vit-large"
    """The SAM: a hub id or a folder."""
    refiner_model_type: str = ""
    """The SAM's ``model_type``; empty in heads of older versions."""
    score_calibration: ScoreCalibration | None = None
    """The weights of phrases' scores; None scores a phrase by its mask's mean probability."""
    refiner_encoder_num_parameters: int = 0
    """Of its vision encoder, which tells SAM's sizes apart; 0 in heads of older versions."""

    def __post_init__(self) -> None:
        for name in (
            "layers", "heads", "hidden_size", "views", "base_channels", "stages", "upsample_input",
            "selector_width",
        ):  # fmt: skip
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"head {name} is {size!r}; give a positive whole number")
        if self.kept_maps is not None:
            # A list when read from JSON.
            object.__setattr__(self, "kept_maps", tuple(self.kept_maps))
            _check_kept_maps(self.kept_maps, self.num_lmm_maps)
        if isinstance(self.score_calibration, dict):
            calibration = ScoreCalibration.from_dict(self.score_calibration)
            object.__setattr__(self, "score_calibration", calibration)
        if self.merge not in ("mean", "max"):
            raise InputError(f"head merge is {self.merge!r}; choose 'mean' or 'max'")
        if not 0 <= self.selector_threshold <= 1:
            raise InputError(f"selector_threshold is {self.selector_threshold}; give one in 0..1")

    @property
    def base_architecture(self) -> LMMArchitecture:
        """The type and sizes of the LMM."""
        return LMMArchitecture(
            self.base_model_type, self.layers, self.heads, self.hidden_size, self.views
        )

    @property
    def num_lmm_maps(self) -> int:
        """Maps a phrase that the LMM gives: views * layers * heads."""
        return self.views * self.layers * self.heads

    @property
    def prompt_templates(self) -> PromptTemplates:
        """The head's own questions, or flmm's defaults."""
        default = PromptTemplates()
        return PromptTemplates(
            self.caption_prompt or default.caption, self.segment_prompt or default.segment
        )

    @property
    def num_maps(self) -> int:
        """Maps a phrase that the decoder gets."""
        return self.num_lmm_maps if self.kept_maps is None else len(self.kept_maps)

    def select_maps(self, attention: Tensor) -> Tensor:
        """Return the maps that the decoder gets: (num_lmm_maps, h, w) to (num_maps, h, w)."""
        return attention if self.kept_maps is None else attention[list(self.kept_maps)]


def _check_kept_maps(kept_maps: tuple[int, ...], num_maps: int) -> None:
    if any(isinstance(index, bool) or not isinstance(index, int) for index in kept_maps):
        raise InputError(f"head kept_maps is {kept_maps}; give whole numbers")
    if (
        not kept_maps
        or list(kept_maps) != sorted(set(kept_maps))
        or not 0 <= kept_maps[0] <= kept_maps[-1] < num_maps
    ):
        raise InputError(
            f"head kept_maps is {list(kept_maps)}; give different numbers in 0..{num_maps - 1},"
            " ascending"
        )
