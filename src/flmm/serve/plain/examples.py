"""The plain routes' bodies for /openapi.json, with examples that can be sent as they are."""

from flmm.serve.common.openapi import _PICTURE, _QUESTION, _body
from flmm.serve.plain.requests import AttendRequest, GroundRequest, SegmentRequest

GROUND = _body(GroundRequest, {"image": _PICTURE, "question": _QUESTION, "max_tokens": 60})
SEGMENT = _body(SegmentRequest, {"image": _PICTURE, "phrases": ["the grass"]})
ATTEND = _body(AttendRequest, {"image": _PICTURE, "question": _QUESTION, "max_tokens": 60})
