"""SugarCrepe (Hsieh et al., arXiv 2306.14610): does an image prefer its caption to a changed one?"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pgs.errors import UserError

SUBSETS = (
    'replace_obj', 'replace_att', 'replace_rel', 'swap_obj', 'swap_att', 'add_obj', 'add_att',
)  # fmt: skip
KEYS = ('filename', 'caption', 'negative_caption')


class Item(NamedTuple):
    image: Path
    caption: str
    negative: str


def read_items(folder: str | Path, subset: str) -> list[Item]:
    """Items of a subset as SugarCrepe publishes them.

    Args:
      folder: holds <subset>.json, {id: {filename, caption, negative_caption}}, and the images of
        COCO's validation split of 2017 in val2017/.
      subset: its name, one of SUBSETS or of a file of one's own.

    Raises:
      UserError: a file that is missing or malformed, by name.
    """
    path = Path(folder) / f'{subset}.json'
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
        texts = [[entry[key] for key in KEYS] for entry in entries.values()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f'cannot read {path} ({error}): fetch it again') from error
    except KeyError as error:
        raise UserError(f'{path}: an entry lacks {error}: it needs {", ".join(KEYS)}') from error
    items = [Item(Path(folder) / 'val2017' / name, *pair) for name, *pair in texts]
    if not items:
        raise UserError(f'{path} holds no item: fetch it again')
    if absent := [item.image for item in items if not item.image.is_file()]:
        raise UserError(
            f'{absent[0]} is missing ({len(absent)} of {len(items)} images that {path.name} names): '
            "unpack COCO's val2017 there"
        )
    return items


def read_images(items: list[Item]) -> Iterator[tuple[str, bytes, tuple[str, str]]]:
    """(name, encoded image, (caption, negative)) one after the other."""
    for item in items:
        yield str(item.image), item.image.read_bytes(), (item.caption, item.negative)


def prefer_captions(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, embed_texts: Callable
) -> dict:
    """acc: share of items whose caption scores at least as high as its negative; n.

    Args:
      batches: (uint8 images (b, H, W, 3), b pairs (caption, negative)).
      embed_images, embed_texts: to unit float32 (b, E) and (m, E).
    """
    hits = []
    for images, pairs in batches:
        image_BxE = embed_images(images)
        text_Bx2xE = embed_texts(t for pair in pairs for t in pair).reshape(len(pairs), 2, -1)
        score_Bx2 = np.einsum('be,bte->bt', image_BxE, text_Bx2xE)
        hits.append(score_Bx2[:, 0] >= score_Bx2[:, 1])
    hit_N = np.concatenate(hits)
    return {'acc': float(hit_N.mean()), 'n': len(hit_N)}
