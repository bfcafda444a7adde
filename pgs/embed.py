"""Embeds a folder of images and a file of texts.

  python -m pgs.embed --checkpoint=runs/pgs-0.3 --images=DIR --texts=FILE --out=emb.npz

--texts has one text a line. The .npz holds image_features and text_features, unit float32 (N, E),
image_paths (relative to DIR, sorted) and texts; what was not asked for is not in it.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags, logging

from input_pipeline.tokenizer import count_cut
from pgs.errors import UserError
from pgs.inference import embed_images, embed_texts, load_clip
from pgs.utils import cli
from pgs.utils.console import progress_bar
from pgs.utils.files import replacing

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Model: a run, a folder or an OpenCLIP file.')
MODEL_CONFIG = flags.DEFINE_string('model_config', None, "OpenCLIP's model JSON of a bare file.")
IMAGES = flags.DEFINE_string('images', None, 'Folder, searched with its subfolders.')
TEXTS = flags.DEFINE_string('texts', None, 'File with one text a line.')
OUT = flags.DEFINE_string('out', 'emb.npz', 'Where the features go.')
SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'}


def image_files(folder: str) -> list[Path]:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f'--images={folder} is no folder')
    found = sorted(p for p in root.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise UserError(f'--images={folder} holds no image ({", ".join(sorted(SUFFIXES))})')
    return found


def text_lines(file: str) -> list[str]:
    try:
        lines = Path(file).expanduser().read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read --texts={file}: {error}') from error
    if not lines:
        raise UserError(f'--texts={file} is empty: give one text a line')
    return lines


def embed() -> str:
    """Writes the features; returns what to print."""
    if not CHECKPOINT.value or not (IMAGES.value or TEXTS.value):
        raise UserError('give --checkpoint, and --images or --texts or both (--help tells more)')
    files = image_files(IMAGES.value) if IMAGES.value else []
    texts = text_lines(TEXTS.value) if TEXTS.value else []
    clip = load_clip(CHECKPOINT.value, model_config=MODEL_CONFIG.value)
    content, said = {}, []
    if files:
        root = Path(IMAGES.value).expanduser()
        bar = progress_bar(files, 'images', ' images', len(files))
        content['image_features'] = embed_images(clip, bar)
        content['image_paths'] = np.array([str(file.relative_to(root)) for file in files])
        said.append(f'{len(files)} images')
    if texts:
        bar = progress_bar(texts, 'texts', ' texts', len(texts))
        content['text_features'] = embed_texts(clip, bar)
        content['texts'] = np.array(texts)
        said.append(f'{len(texts)} texts')
        if cut := count_cut(texts, clip.model.text.context_length):
            said.append(f'{cut} of them cut to {clip.model.text.context_length} tokens')
    out = Path(OUT.value).expanduser()
    try:
        with replacing(out) as file:
            np.savez(file, **content)
    except OSError as error:
        raise UserError(f'cannot write --out={out} ({error.strerror}): give another') from error
    return f'{", ".join(said)}, {clip.model.embed_dim} numbers each: {out}'


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f'{argv[1]!r} is no flag')
        print(embed())
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    cli.run(main)
