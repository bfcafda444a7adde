"""Looks into a prepared data set: how many, how long, what it looks like, what is broken.

python -m input_pipeline.inspect DIR [--sheet=FILE.png] [--sample=10000]
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import tqdm
from absl import logging
from matplotlib.figure import Figure
from PIL import Image

from input_pipeline.sources import Records, captions_of, open_folder
from input_pipeline.tokenizer import CONTEXT_LENGTH, tokenize
from pgs.errors import UserError

SHEET_ROWS, SHEET_COLUMNS, THUMBNAIL = 5, 8, 128
BAR = 40  # characters of the longest bar


def read_sample(source: Records, count: int) -> tuple[list[dict], list[str]]:
    """Records spread evenly over the set, and where those stand that cannot be read or decoded."""
    indices = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int))
    rows, broken = [], []
    for index in tqdm.tqdm(indices.tolist(), desc='Reading', unit=' records'):
        try:
            record = source[index]
            image = Image.open(io.BytesIO(record['image']))
            image.load()
            caption = captions_of(record)[0]
        except Exception:  # whatever is wrong with it, it is broken, and counted
            broken.append(source.location(index))
            continue
        thumbnail = None
        if len(rows) % max(len(indices) // (SHEET_ROWS * SHEET_COLUMNS), 1) == 0:
            thumbnail = image.convert('RGB')
            thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
        rows.append({
            'caption': caption, 'bytes': len(record['image']), 'size': image.size,
            'thumbnail': thumbnail,
        })  # fmt: skip
    return rows, broken


def histogram(lengths: np.ndarray) -> list[str]:
    """Caption lengths in tokens, start and end counted, as text bars."""
    edges = np.arange(0, CONTEXT_LENGTH + 8, 7)  # the last bar: cut or just fitting
    counts, _ = np.histogram(lengths, bins=edges)
    return [
        f'  {low:>3}-{low + 6:<3} {count:>8} {"#" * round(BAR * count / max(counts.max(), 1))}'
        for low, count in zip(edges[:-1], counts, strict=True)
    ]


def contact_sheet(rows: list[dict]) -> Figure:
    """Thumbnails with their captions."""
    shown = [r for r in rows if r['thumbnail'] is not None][: SHEET_ROWS * SHEET_COLUMNS]
    figure = Figure(figsize=(2.0 * SHEET_COLUMNS, 2.2 * SHEET_ROWS), layout='constrained')
    axes = figure.subplots(SHEET_ROWS, SHEET_COLUMNS).flatten()
    for axis in axes:
        axis.axis('off')
    for axis, row in zip(axes, shown, strict=False):
        axis.imshow(row['thumbnail'])
        text = row['caption'] if len(row['caption']) < 60 else row['caption'][:57] + '...'
        # A caption is no formula: a dollar sign would start one.
        axis.set_title(text.replace('$', r'\$'), fontsize=6, wrap=True)
    return figure


def inspect(folder: str, sheet: str | None, sample: int) -> str:
    """The text that the command prints; writes the contact sheet.

    Raises:
      UserError: no prepared folder, or nothing in it that can be read.
    """
    path = Path(folder).expanduser().absolute()
    source = open_folder(path)
    rows, broken = read_sample(source, sample)
    if not rows:
        raise UserError(f'none of {len(broken)} records of {folder} can be read: {broken[0]}')
    sheet_path = Path(sheet) if sheet else path / 'contact_sheet.png'
    try:
        contact_sheet(rows).savefig(sheet_path, dpi=120)
    except OSError as error:
        raise UserError(
            f'cannot write {sheet_path}: {error.strerror}; give another --sheet'
        ) from error
    tokens = (tokenize([r['caption'] for r in rows], 512) > 0).sum(axis=1)
    sizes = np.array([r['size'] for r in rows])
    lines = [
        f'{len(source)} records, {len(rows) + len(broken)} looked at, {len(broken)} broken',
        *(f'  broken: {where}' for where in broken[:10]),
        f'images: median {int(np.median(sizes[:, 0]))} x {int(np.median(sizes[:, 1]))} pixels, '
        f'smallest side {sizes.min()}, largest {sizes.max()}, '
        f'mean {np.mean([r["bytes"] for r in rows]) / 1000:.1f} kB',
        f'captions: {(tokens > CONTEXT_LENGTH).mean():.1%} longer than {CONTEXT_LENGTH} tokens '
        '(cut in training); tokens a caption:',
        *histogram(np.minimum(tokens, CONTEXT_LENGTH)),
        f'contact sheet: {sheet_path}',
    ]
    return '\n'.join(lines)


def main() -> None:
    logging.set_verbosity(logging.WARNING)
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.inspect', description=__doc__.splitlines()[0]
    )
    parser.add_argument('folder', help='a prepared data set')
    parser.add_argument('--sheet', help='contact sheet; contact_sheet.png there where not set')
    parser.add_argument('--sample', type=int, default=10_000, help='records to look at')
    args = parser.parse_args()
    try:
        if args.sample < 1:
            raise UserError(f'--sample={args.sample} must be at least 1')
        print(inspect(args.folder, args.sheet, args.sample))
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
