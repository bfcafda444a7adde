"""SugarCrepe (Hsieh et al., arXiv 2306.14610): is an image closer to its caption than to a changed one?

Shapes: N items, B items of a batch, E embedding width, M texts.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.eval_sets import LabelledImages
from pgs.errors import UserError
from pgs.evaluate.context import Context
from pgs.evaluate.data import Task
from pgs.utils.files import read_json, reason

KEYS = ('filename', 'caption', 'negative_caption')


class Item(NamedTuple):
    """An image file, its caption and the changed caption."""

    image: Path
    caption: str
    negative: str


def read_items(folder: str | Path, subset: str) -> list[Item]:
    """Items of a subset, in SugarCrepe's published format.

    Args:
      folder: holds <subset>.json, {id: {filename, caption, negative_caption}}, and the images of
        COCO's validation split of 2017 in val2017/.
      subset: one of tasks.SUGAR_CREPE_SUBSETS, or the name of another file of this format.

    Raises:
      UserError: a file that is missing or malformed, by name.
    """
    path = Path(folder) / f'{subset}.json'
    try:
        texts = [[entry[key] for key in KEYS] for entry in read_json(path).values()]
        if any(not isinstance(text, str) or '\0' in text for row in texts for text in row):
            raise ValueError('a file name or caption is not a text')
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f'cannot read {path} ({error}): fetch it again') from error
    except KeyError as error:
        raise UserError(f'{path}: an entry lacks {error}: it needs {", ".join(KEYS)}') from error
    items = [Item(Path(folder) / 'val2017' / name, *pair) for name, *pair in texts]
    if not items:
        raise UserError(f'{path} holds no item: fetch it again')
    try:
        absent = [item.image for item in items if not item.image.is_file()]
    except OSError as error:  # a name that the file system does not take
        raise UserError(f'{path} names an image {reason(error)}: fetch it again') from error
    if absent:
        raise UserError(
            f'{absent[0]} is missing ({len(absent)} of {len(items)} images that {path.name} names): '
            "unpack COCO's val2017 there"
        )
    return items


def read_images(items: list[Item]) -> Iterator[tuple[str, bytes, tuple[str, str]]]:
    """Yields (name, encoded image, (caption, negative))."""
    for item in items:
        yield str(item.image), item.image.read_bytes(), (item.caption, item.negative)


def prefer_captions(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, embed_texts: Callable
) -> dict[str, float]:
    """Compares each image with its caption and with its negative.

    Args:
      batches: (uint8 images (B, height, width, 3), B pairs (caption, negative)).
      embed_images: images -> unit float32 (B, E).
      embed_texts: texts -> unit float32 (M, E).

    Returns:
      acc: share of items whose caption scores at least as high as its negative; n: items.
    """
    hits = []
    for images, pairs in batches:
        image_BxE = embed_images(images)
        text_Bx2xE = embed_texts(t for pair in pairs for t in pair).reshape(len(pairs), 2, -1)
        score_Bx2 = np.einsum('be,bte->bt', image_BxE, text_Bx2xE)
        hits.append(score_Bx2[:, 0] >= score_Bx2[:, 1])
    hit_N = np.concatenate(hits)
    return {'acc': float(hit_N.mean()), 'n': len(hit_N)}


def open_task(task: str, root: Path) -> Task | str:
    """Opens a subset, root/sugar_crepe/<subset>.json; see Protocol.open_task."""
    subset = task.split('/')[1]
    folder = root / 'sugar_crepe'
    if not (folder / f'{subset}.json').is_file():
        return f'{folder / subset}.json, and the images of COCO val2017 in {folder / "val2017"}'
    items = read_items(folder, subset)
    data = LabelledImages(
        origin=f'{folder / subset}.json',
        kind='captions',
        classnames=[],
        templates=[],
        count=len(items),
        samples=lambda: read_images(items),
    )
    return Task(task, 'sugar_crepe', data)


def score_task(task: Task, context: Context) -> dict[str, float]:
    """acc, n and n_cut; see prefer_captions."""
    metrics = prefer_captions(
        context.batches(task.data), context.embedder.images, context.embed_texts
    )
    return metrics | {'n_cut': context.n_cut}
