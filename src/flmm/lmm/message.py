"""A message of a conversation about pictures."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

Role = Literal["system", "user", "assistant"]
"""Whose message it is."""


@dataclass(frozen=True)
class Message:
    """A message of a conversation; its pictures come before its text."""

    role: Role
    text: str
    pictures: tuple[Image.Image, ...] = ()
