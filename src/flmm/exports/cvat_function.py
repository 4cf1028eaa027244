"""A function for ``cvat-cli task auto-annotate``: phrases become masks in a CVAT task's pictures.

    cvat-cli task auto-annotate 7 --function-module flmm.exports.cvat_function \\
        -p labels=str:labels.yaml

Needs the package cvat-cli or cvat-sdk.
"""

from collections.abc import Iterator
from pathlib import Path

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.models import LabeledShapeRequest
from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.answers.polygons import mask_to_rings
from flmm.exports.cvat import build_cvat_points
from flmm.exports.labels import LabelMap, read_label_map
from flmm.exports.pictures import LabelledMask
from flmm.grounding.grounder import Grounder

_DEFAULT_MIN_SCORE = 0.5


def create(
    labels: str,
    model: str | None = None,
    lmm: str | None = None,
    sam: str | None = None,
    device: str | None = None,
) -> "PhraseFunction":
    """Return the function; cvat-cli calls this with the values of ``-p``.

    Args:
        labels: a YAML file from phrases to labels of the task.
        model, lmm, sam, device: ``head`` and the others of ``Grounder.from_pretrained``.

    Raises:
        InputError: the file or a model cannot be read.
    """
    label_map = read_label_map(Path(labels))
    return PhraseFunction(
        Grounder.from_pretrained(model, lmm=lmm, sam=sam, device=device), label_map
    )


class PhraseFunction:
    """Finds what phrases refer to in pictures.

    Args:
        grounder: finds it.
        labels: the phrases, and what they are called in CVAT.
    """

    def __init__(self, grounder: Grounder, labels: LabelMap) -> None:
        self._grounder = grounder
        self._labels = labels
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(label, number) for number, label in enumerate(labels.labels)]
        )
        """CVAT's description of the labels."""

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[LabeledShapeRequest]:
        """Return the shapes of all phrases with a high enough score."""
        threshold = context.conf_threshold
        min_score = _DEFAULT_MIN_SCORE if threshold is None else threshold
        answer = self._grounder.segment(image, self._labels.phrases, min_score=min_score)
        return [
            shape
            for phrase in answer.phrases
            if phrase.area
            for shape in self._build_shapes(phrase, context.conv_mask_to_poly)
        ]

    def _build_shapes(self, phrase: Phrase, as_polygons: bool) -> Iterator[LabeledShapeRequest]:
        label = self._labels.find(phrase.text)
        assert label is not None, "only phrases with a label are looked for"
        number = self._labels.labels.index(label)
        mask = LabelledMask(label, phrase.to_dict())
        if as_polygons:
            for ring in mask_to_rings(mask.part, *mask.box[:2]):
                yield cvataa.polygon(number, ring.ravel().tolist())
        else:
            yield cvataa.mask(number, build_cvat_points(mask))
