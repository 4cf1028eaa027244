"""Texts with Markdown in them, well-formed and not."""

from hypothesis import strategies as st

MARKED_TEXTS = st.lists(
    st.sampled_from(
        [
            "a dog", "the man's", "two red cars", "Coffee mug", "is", "in", "and", "of", "the left",
            "the image", "**", "*", "_", "`", "~~", "[", "](", ")", "![", "|", "|-|", "- ", "1. ",
            "> ", "# ", "\n", "\r\n", "\r", "\n\n", " ", "  ", "\t", ": ", "; ", " – ", ", ", ".",
            '"', "'", "“", "”", "\\", "<b>", "&amp;", "🐈‍⬛", "\u00a0", "\u2028", "\0", "e\u0301",
        ]
    ),
    max_size=25,
).map("".join)  # fmt: skip
