"""The adapter base of Qwen and GLM: a grid of the picture's shape, patches merged two by two."""

from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import grid_view
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import stretched_geometry

MROPE_SECTION = [1, 1, 2]
"""Time, height and width of M-RoPE for a tiny model's head width of 8."""


class DynamicResolutionAdapter(LMMAdapter):
    """An LMM with M-RoPE whose image processor returns patches and ``image_grid_thw``."""

    image_input_names: tuple[str, ...] = ("pixel_values", "image_grid_thw")
    position_input_names: tuple[str, ...] = ("image_grid_thw",)
    token_type_input_names: tuple[str, ...] = ("mm_token_type_ids",)
    computes_position_ids: bool = True

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        vision = self.model.config.vision_config
        merge, patch = int(vision.spatial_merge_size), int(vision.patch_size)
        _, rows, columns = picture.inputs["image_grid_thw"][picture.index].tolist()
        grid = (rows // merge, columns // merge)
        view = grid_view(stretched_geometry(picture.size, (rows * patch, columns * patch), grid))
        return PictureLayout(self.image_token * (grid[0] * grid[1]), (view,))


def tiny_size_limits(cell_size: int) -> dict[str, int]:
    """Return an image processor's ``size`` for 4 to 40 cells of ``cell_size`` pixels square."""
    return {"shortest_edge": 4 * cell_size * cell_size, "longest_edge": 40 * cell_size * cell_size}


def tiny_rope_parameters() -> dict[str, object]:
    """Return the M-RoPE settings for a head width of 8."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": MROPE_SECTION}
