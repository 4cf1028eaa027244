"""HTML that notebooks show."""

import base64
import html

from PIL import Image

from flmm.answers.image_files import encode_png


def build_paragraph(content: str) -> str:
    """Return a paragraph of HTML content that keeps line breaks."""
    return f'<p style="white-space: pre-wrap">{content}</p>'


def build_titled_paragraph(title: str, text: str) -> str:
    """Return a paragraph with a title in front of a text, which need not be HTML."""
    return build_paragraph(f"<strong>{html.escape(title)}:</strong> {html.escape(text)}")


def build_image(image: Image.Image, description: str) -> str:
    """Return an image with its content; ``description`` is for those who cannot see it."""
    content = base64.b64encode(encode_png(image)).decode("ascii")
    return (
        f'<img alt="{html.escape(description)}" style="max-width: 100%"'
        f' src="data:image/png;base64,{content}">'
    )
