"""Embeds a folder of images and a file of texts into one .npz, for `python -m pgs.embed`."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.images import IMAGE_SUFFIXES
from input_pipeline.tokenizer import count_cut
from pgs.errors import UserError
from pgs.inference.clip import embed_images, embed_texts
from pgs.inference.embedding import Embedder
from pgs.utils.console import progress_bar
from pgs.utils.files import read_small, replacing, writing


class Inputs(NamedTuple):
    """What to embed.

    Attributes:
      images: image files, sorted.
      names: their paths relative to the folder.
      texts: one a line of the file.
    """

    images: list[Path]
    names: list[str]
    texts: list[str]


def read_inputs(images: str | None, texts: str | None) -> Inputs:
    """Finds the images and reads the texts.

    Args:
      images: folder, searched with its subfolders; None: no images.
      texts: file with one text a line; None: no texts.

    Raises:
      UserError: a folder without images, or a file that is empty or cannot be read.
    """
    files = image_files(images) if images else []
    root = Path(images or '').expanduser()
    names = [str(file.relative_to(root)) for file in files]
    return Inputs(files, names, text_lines(texts) if texts else [])


def image_files(folder: str) -> list[Path]:
    """The images of a folder and its subfolders, sorted."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f'--images={folder} is not a folder')
    files = sorted(p for p in root.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise UserError(f'--images={folder} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))})')
    return files


def text_lines(file: str) -> list[str]:
    """The lines of a UTF-8 file, at least one."""
    try:
        lines = read_small(Path(file).expanduser()).decode().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read --texts={file}: {error}') from error
    if not lines:
        raise UserError(f'--texts={file} is empty: give one text a line')
    return lines


def write_features(clip: Embedder, inputs: Inputs, out: str) -> str:
    """Embeds the inputs and writes the .npz; see pgs/embed.py for its content.

    Args:
      clip: see load_clip.
      inputs: see read_inputs.
      out: file to write.

    Returns:
      A line for the console: what was embedded and where it is.

    Raises:
      UserError: an image that cannot be read, or a file that cannot be written.
    """
    content: dict[str, Any] = {}
    counts = []
    if inputs.images:
        bar = progress_bar(inputs.images, 'images', ' images', len(inputs.images))
        content['image_features'] = embed_images(clip, bar)
        content['image_paths'] = np.array(inputs.names)
        counts.append(f'{len(inputs.images)} images')
    if inputs.texts:
        bar = progress_bar(inputs.texts, 'texts', ' texts', len(inputs.texts))
        content['text_features'] = embed_texts(clip, bar)
        content['texts'] = np.array(inputs.texts)
        counts.append(f'{len(inputs.texts)} texts')
        length = clip.model.text.context_length
        if cut := count_cut(inputs.texts, length):
            counts.append(f'{cut} of them cut to {length} tokens')
    path = Path(out).expanduser()
    with writing(f'--out={path}'), replacing(path) as file:
        np.savez(file, **content)
    return f'{", ".join(counts)}, {clip.model.embed_dim} numbers each: {path}'
