"""The plain routes' bodies in /openapi.json; the examples can be sent as they are."""

from flmm.serve.common.openapi import EXAMPLE_PICTURE, EXAMPLE_QUESTION, describe_body
from flmm.serve.plain.request_models import AttendRequest, GroundRequest, SegmentRequest

GROUND_BODY = describe_body(
    GroundRequest, {"image": EXAMPLE_PICTURE, "question": EXAMPLE_QUESTION, "max_tokens": 60}
)
SEGMENT_BODY = describe_body(SegmentRequest, {"image": EXAMPLE_PICTURE, "phrases": ["the grass"]})
ATTEND_BODY = describe_body(
    AttendRequest, {"image": EXAMPLE_PICTURE, "question": EXAMPLE_QUESTION, "max_tokens": 60}
)
