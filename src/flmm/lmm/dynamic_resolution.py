"""What Qwen's and GLM's LMMs share: a grid of the picture's own shape, cells merged two by two."""

from typing import ClassVar

from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import grid_view
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import stretched_geometry

MROPE_SECTION = [1, 1, 2]
"""Of a tiny model's head width 8: time, height, width."""


class DynamicResolutionAdapter(LMMAdapter):
    """An LMM whose image processor gives patches and ``image_grid_thw``, and which has M-RoPE."""

    image_input_names: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")
    position_input_names: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    token_type_input_name: ClassVar[str | None] = "mm_token_type_ids"
    computes_position_ids: ClassVar[bool] = True

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        vision = self.model.config.vision_config
        merge, patch = int(vision.spatial_merge_size), int(vision.patch_size)
        _, rows, columns = picture.inputs["image_grid_thw"][picture.index].tolist()
        grid = (rows // merge, columns // merge)
        view = grid_view(stretched_geometry(picture.size, (rows * patch, columns * patch), grid))
        return PictureLayout(self.image_token * (grid[0] * grid[1]), (view,))


def tiny_size_limits(cell_size: int) -> dict[str, int]:
    """An image processor's ``size`` that gives 4 to 40 cells of so many pixels."""
    return {"shortest_edge": 4 * cell_size * cell_size, "longest_edge": 40 * cell_size * cell_size}


def tiny_rope_parameters() -> dict[str, object]:
    """M-RoPE for a head width of 8."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": MROPE_SECTION}
