"""The baselines by their names."""

from collections.abc import Mapping

from flmm.training_free.baselines.attend_and_segment import AttendAndSegment
from flmm.training_free.baselines.base import Baseline
from flmm.training_free.baselines.decaf import DecAF
from flmm.training_free.baselines.localization_heads import LocalizationHeads
from flmm.training_free.baselines.token_activation_maps import TokenActivationMaps

BASELINES: Mapping[str, type[Baseline]] = {
    method.name: method
    for method in (AttendAndSegment, LocalizationHeads, DecAF, TokenActivationMaps)
}
"""Each is made without arguments."""
