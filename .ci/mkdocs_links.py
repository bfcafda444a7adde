"""MkDocs hook: links to files outside docs/ become plain text, because the site does not hold them."""

import re

LINK = re.compile(r'(?<!!)\[([^\]]*)\]\(\.\./[^)\s]*\)')  # [text](../path), but no image


def on_page_markdown(markdown: str, **_) -> str:
    return LINK.sub(r'\1', markdown)
