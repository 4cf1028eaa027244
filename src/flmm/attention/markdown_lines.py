"""The plain text of an answer that is written in Markdown, and where it stands in the answer."""

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.parser_inline import RuleFuncInlineType
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# Also signs that Markdown does not take for list marks, and numbers where it does not.
_LIST_MARK = re.compile(r"(?:[-+*•◦▪‣●○·–—]|\d{1,3}[.)])[ \t]+(?=\S)")
_BREAK_TAG = re.compile(r"<br\b", re.IGNORECASE)
_INVISIBLE_CATEGORIES = frozenset({"So", "Sk", "Cf"})
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
_BLANKS = " \t"
"""What Markdown takes for white space within a line; a no-break space is text."""
_MIN_WRAPPED_LENGTH = 30
"""Of a wrapped line in lower case; shorter ones are things that are listed without list marks."""


@dataclass(frozen=True)
class PlainLine:
    """A line or a table's cell without its marks; also several lines, if they were only wrapped."""

    text: str
    positions: tuple[int, ...]
    """Of each character of ``text``, in the answer, in code points."""
    num_strong: int
    """How many characters at the beginning are in bold."""
    depth: int = 0
    """How many lists it is in."""
    is_item: bool = False
    """Whether it begins a list item or a table's row."""
    is_further_cell: bool = False
    """Whether it is in a table, but not in the first column."""

    def after(self, start: int) -> "PlainLine":
        """Return the line from a character on."""
        return replace(
            self,
            text=self.text[start:],
            positions=self.positions[start:],
            num_strong=max(self.num_strong - start, 0),
        )


def read_plain_lines(answer: str) -> Iterator[PlainLine]:
    """Yield the lines of an answer, without its headings, fenced code and tables' first rows.

    Emphasis, code marks, links' addresses, HTML tags, list marks, and symbols such as emoji are
    left out. Markdown is CommonMark with GitHub's tables and strikethrough, less what an LMM means
    otherwise: indented code, blocks of HTML, underlined headings, and link references.
    """
    answer = answer.replace("\r\n", " \n").translate({ord("\r"): "\n", 0: " "})
    line_starts = [0, *(match.end() for match in re.finditer("\n", answer)), len(answer)]
    depth = column = read_until = 0
    block = ""
    begins_item = False
    for token in _markdown().parse(answer):
        if token.type in ("bullet_list_open", "ordered_list_open"):
            depth += 1
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            depth -= 1
        elif token.type == "list_item_open":
            begins_item = True
        elif token.type == "tr_open":
            column = 0
        elif token.type.endswith("_open"):
            block = token.type
            column += block == "td_open"
        elif token.map and block in ("paragraph_open", "td_open"):
            begin, end = (line_starts[line] for line in token.map)
            positions = _locate(token.content, answer, max(begin, read_until), end)
            if positions is None:
                continue
            read_until = positions[-1]
            begins_item = column == 1 if block == "td_open" else begins_item
            for line in _join_wrapped(_read_inline(token, positions)):
                mark = _LIST_MARK.match(line.text)
                yield replace(
                    line.after(mark.end()) if mark else line,
                    depth=depth + bool(mark),
                    is_item=begins_item or bool(mark),
                    is_further_cell=block == "td_open" and column > 1,
                )
                begins_item = False


def _locate(content: str, answer: str, begin: int, end: int) -> list[int] | None:
    """Return the position in the answer of each character of a block's content.

    None if the block says something else than the answer, as where a table escapes a "|".
    """
    positions: list[int] = []
    for line in content.split("\n"):
        # Otherwise, Markdown takes only marks and spaces away, from both ends of a line.
        start = answer.find(line.strip(_BLANKS), begin, end)
        if start < 0:
            return None
        start -= len(line) - len(line.lstrip(_BLANKS))
        # A tab may have become several spaces.
        positions.extend(max(at, begin) for at in range(start, start + len(line) + 1))
        begin = positions[-1]
    return positions


def _read_inline(token: "Token", positions: Sequence[int]) -> Iterator[PlainLine]:
    """Yield the lines of a block's content.

    Args:
        token: of the content.
        positions: in the answer, of each character of the content.
    """
    letters: list[tuple[str, int]] = []
    num_strong = strong_depth = cursor = 0
    for child in token.children or []:
        is_tag = child.type == "html_inline"
        is_break = child.type == "hardbreak" or (is_tag and _BREAK_TAG.match(child.content))
        if child.type == "softbreak" or is_break:
            yield _make_line(letters, num_strong)
            letters, num_strong = [], 0
            if is_break:
                yield PlainLine("", (), 0)  # what follows does not go on
            if is_tag:
                cursor += len(child.content)
                continue
            cursor = token.content.index("\n", cursor) + 1
            while token.content[cursor] in _BLANKS:
                cursor += 1
        elif child.type in ("text", "text_special", "code_inline"):
            start, end = _find_text(child, token.content, cursor)
            begins_strong = strong_depth > 0 and num_strong == len(letters)
            letters += [
                (letter, position)
                for letter, position in zip(child.content, positions[start:], strict=False)
                if not _is_symbol(letter)
            ]
            num_strong = len(letters) if begins_strong else num_strong
            cursor = end
        else:
            strong_depth += child.nesting if child.tag == "strong" else 0
            # Of a link, "[" is without a token's markup, and its end says the rest.
            is_link = child.type == "link_open"
            start = cursor
            cursor = child.meta.get("end", cursor + is_link + len(child.markup or child.content))
            follows = token.content[cursor : cursor + 1]
            if is_tag and letters and (follows.isalnum() or follows in tuple("([{<")):
                # "a dog</ref><box>(1,2)" and "a dog</p>[SEG]" are several words.
                letters.append((" ", positions[start]))
    yield _make_line(letters, num_strong)


def _find_text(token: "Token", content: str, cursor: int) -> tuple[int, int]:
    """Return where the text of a token begins in its block's content, and where the token ends."""
    if token.type == "text":
        start = max(content.find(token.content, cursor), cursor)
        return start, start + len(token.content)
    if token.type == "text_special":  # a backslash and a letter
        end = cursor + len(token.markup)
        return end - len(token.content), end
    start = cursor + len(token.markup)
    raw = content[start : start + len(token.content)].replace("\n", " ")
    # Code may have one more space at both of its ends.
    padding = int(raw != token.content)
    end = start + len(token.content) + 2 * padding + len(token.markup)
    return start + padding, end


def _make_line(letters: Sequence[tuple[str, int]], num_strong: int) -> PlainLine:
    text = "".join(letter for letter, _ in letters)
    line = PlainLine(text, tuple(position for _, position in letters), num_strong)
    return line.after(len(text) - len(text.lstrip()))


def _is_symbol(letter: str) -> bool:
    is_invisible = unicodedata.category(letter) in _INVISIBLE_CATEGORIES
    return is_invisible or ord(letter) in _VARIATION_SELECTORS


def _join_wrapped(lines: Iterator[PlainLine]) -> Iterator[PlainLine]:
    """Yield the lines, as one those that only end because a text was wrapped."""
    last: PlainLine | None = None
    for line in lines:
        if last and line.text[:1].islower() and _may_go_on(last):
            gap = (last.positions[-1] + 1,)
            last = replace(
                last,
                text=f"{last.text} {line.text}",
                positions=last.positions + gap + line.positions,
            )
        else:
            if last:
                yield last
            last = line
    if last:
        yield last


def _may_go_on(line: PlainLine) -> bool:
    """Return whether a line may have been wrapped at its end."""
    is_listed = line.text[:1].islower() and len(line.text) < _MIN_WRAPPED_LENGTH
    return bool(line.text) and line.text[-1] not in ".:;!?" and not is_listed


@functools.cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt, rules_inline

    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    markdown.disable(["code", "html_block", "lheading", "reference", "autolink", "entity"])
    markdown.disable("text_join")  # or escaped letters would lose where they are
    for name, rule in (("link", rules_inline.link), ("image", rules_inline.image)):
        markdown.inline.ruler.at(name, _with_end(rule))
    return markdown


def _with_end(rule: "RuleFuncInlineType") -> "RuleFuncInlineType":
    """Return the rule, whose last token then says where the link ends with its address."""

    def rule_with_end(state: "StateInline", silent: bool) -> bool:
        is_found = rule(state, silent)
        if is_found and not silent:
            state.tokens[-1].meta["end"] = state.pos
        return is_found

    return rule_with_end
