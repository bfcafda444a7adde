"""A summary of a prepared data set, as text and as a contact sheet."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm
from matplotlib.figure import Figure
from PIL import Image

from input_pipeline.buckets import is_bucket
from input_pipeline.images import open_image
from input_pipeline.sources import Records, captions_of, open_folder
from input_pipeline.tokenizer import CONTEXT_LENGTH, tokenize
from pgs.errors import UserError
from pgs.utils.files import absolute, writing

SHEET_ROWS, SHEET_COLUMNS, THUMBNAIL = 5, 8, 128
BAR = 40  # characters of the longest bar


class Row(NamedTuple):
    """What the summary needs of one record."""

    caption: str
    num_bytes: int  # of the encoded image
    size: tuple[int, int]  # width, height, pixels
    thumbnail: Image.Image | None  # for the contact sheet


def inspect(folder: str, sheet: str | None, sample: int) -> str:
    """Reads a sample of a prepared folder, and writes the contact sheet.

    Args:
      folder: the data set.
      sheet: file of the contact sheet; None: contact_sheet.png in the folder, of a bucket in
        the current one.
      sample: number of records to read.

    Returns:
      The summary.

    Raises:
      UserError: not a prepared folder, no readable record, or a sheet that cannot be written.
    """
    path = absolute(folder)
    source = open_folder(path)
    rows, broken = read_sample(source, sample)
    if not rows:
        raise UserError(f'none of {len(broken)} records of {folder} can be read: {broken[0]}')
    here = Path() if is_bucket(path) else Path(path)
    sheet_path = Path(sheet) if sheet else here / 'contact_sheet.png'
    with writing(str(sheet_path), 'give another --sheet'):
        contact_sheet(rows).savefig(sheet_path, dpi=120)
    tokens = (tokenize([row.caption for row in rows], 512) > 0).sum(axis=1)
    sizes = np.array([row.size for row in rows])
    lines = [
        f'{len(source)} records, {len(rows) + len(broken)} read, {len(broken)} broken',
        *(f'  broken: {place}' for place in broken[:10]),
        f'images: median {int(np.median(sizes[:, 0]))} x {int(np.median(sizes[:, 1]))} pixels, '
        f'smallest side {sizes.min()}, largest {sizes.max()}, '
        f'mean {np.mean([row.num_bytes for row in rows]) / 1000:.1f} kB',
        f'captions: {(tokens > CONTEXT_LENGTH).mean():.1%} longer than {CONTEXT_LENGTH} tokens '
        '(cut in training); tokens of a caption:',
        *histogram(np.minimum(tokens, CONTEXT_LENGTH)),
        f'contact sheet: {sheet_path}',
    ]
    return '\n'.join(lines)


def read_sample(source: Records, count: int) -> tuple[list[Row], list[str]]:
    """Reads records that are spread evenly over the set.

    Returns:
      (rows, places of the records that cannot be read or decoded).
    """
    indices = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int))
    rows: list[Row] = []
    broken = []
    for index in tqdm.tqdm(indices.tolist(), desc='Reading', unit=' records'):
        try:
            record = source[index]
            image = open_image(record['image'])
            image.load()
            caption = captions_of(record)[0]
        except Exception:  # any error means a broken record
            broken.append(source.location(index))
            continue
        thumbnail = None
        if len(rows) % max(len(indices) // (SHEET_ROWS * SHEET_COLUMNS), 1) == 0:
            thumbnail = image.convert('RGB')
            thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
        rows.append(Row(caption, len(record['image']), image.size, thumbnail))
    return rows, broken


def histogram(lengths: np.ndarray) -> list[str]:
    """Text bars of caption lengths, in tokens with the start and the end token."""
    edges = np.arange(0, CONTEXT_LENGTH + 8, 7)  # the last bar: captions that are cut or just fit
    counts, _ = np.histogram(lengths, bins=edges)
    return [
        f'  {low:>3}-{low + 6:<3} {count:>8} {"#" * round(BAR * count / max(counts.max(), 1))}'
        for low, count in zip(edges[:-1], counts, strict=True)
    ]


def contact_sheet(rows: list[Row]) -> Figure:
    """Thumbnails with their captions."""
    shown = [row for row in rows if row.thumbnail is not None][: SHEET_ROWS * SHEET_COLUMNS]
    figure = Figure(figsize=(2.0 * SHEET_COLUMNS, 2.2 * SHEET_ROWS), layout='constrained')
    axes = figure.subplots(SHEET_ROWS, SHEET_COLUMNS).flatten()
    for axis in axes:
        axis.axis('off')
    for axis, row in zip(axes, shown, strict=False):
        axis.imshow(row.thumbnail)
        text = row.caption if len(row.caption) < 60 else row.caption[:57] + '...'
        # Matplotlib would take text between dollar signs as a formula.
        axis.set_title(text.replace('$', r'\$'), fontsize=6, wrap=True)
    return figure
