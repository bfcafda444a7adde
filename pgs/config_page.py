"""Writes docs/configuration.md from the table of keys: python -m pgs.config_page"""

from pathlib import Path
from typing import Any

from configs import base
from pgs.config_table import TABLE, Key, describe, flat, strategies_with
from pgs.utils import cli

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'configuration.md'
HEAD = """# Configuration

Every key of `configs/base.py`, with its default and its valid values. A key is a flag of `main.py` and of the other programs that take
`--config`: `--config.masking.min_ratio=0.5`. Config files and flags are checked against this table before anything is written or compiled;
a mistake ends the program with one line and exit status 1. Options of your own strategy that are not listed here are checked against
the defaults in its signature ([masking.md](masking.md#your-own-strategy)).

This page is generated from `pgs/config_table.py`: `python -m pgs.config_page`.
"""


def page() -> str:
    """The content of docs/configuration.md: a table for each part of the config."""
    defaults = flat(base.get_config())
    parts: dict[str, list[str]] = {}
    for key, row in TABLE.items():
        parts.setdefault(key.rpartition('.')[0], []).append(line(key, row, defaults[key]))
    sections = [
        f'## {part or "The run"}\n\n| key | default | valid | meaning |\n| --- | --- | --- | --- |\n'
        + '\n'.join(lines)
        for part, lines in parts.items()
    ]
    return HEAD + '\n' + '\n\n'.join(sections) + '\n'


def line(key: str, row: Key, default: Any) -> str:
    """One row of the page."""
    names = strategies_with(key)
    used_by = f'{", ".join(names)}: ' if names else ''
    return f'| `{key}` | `{default!r}` | {describe(row)} | {used_by}{row.meaning} |'


def main(argv: list[str]) -> None:
    del argv
    PAGE.write_text(page())
    print(f'Written: {PAGE}')


if __name__ == '__main__':
    cli.run(main)
