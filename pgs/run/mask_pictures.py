"""Pictures of the masks that strategies give one's own images, for `python -m pgs.visualize`.

Shapes: N images, H x W pixels, L patches.
"""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from configs import base
from input_pipeline.images import centre_crop, open_image
from pgs.convert import load_model
from pgs.errors import UserError, did_you_mean
from pgs.inference.files import image_files
from pgs.inference.masking import run_masking
from pgs.masking import configured, known_strategies
from pgs.masking.attention import ATTENTION, attention_shape
from pgs.masking.edges import edge_scores
from pgs.masking.selection import PatchSelection
from pgs.masking.similarity import pixel_patches
from pgs.masking.strategies import SELECTOR
from pgs.models import normalize_images
from pgs.run import figures
from pgs.run.masks import make_select, visible_by_strategy
from pgs.utils.console import progress_bar
from pgs.utils.files import read_small, reason

ALL = 'all'
SEED = 0
FRAMES = 11  # of a GIF: progress 0, 0.1, ... 1
FRAME_MILLISECONDS = 500

# (images uint8 (N, H, W, 3), progress in [0, 1]) -> PatchSelection
Select = Callable[[np.ndarray, float], PatchSelection]


class Subject(NamedTuple):
    """What chooses the patches.

    Attributes:
      select_by: name of a strategy -> its function, compiled once.
      image_size, patch_size: pixels.
      progress: at which a still picture is taken, in [0, 1].
      words: for the foot of the picture.
    """

    select_by: Callable[[str], Select]
    image_size: int
    patch_size: int
    progress: float
    words: str


class Pictures(NamedTuple):
    """Images as a model sees them."""

    images: np.ndarray  # uint8 (N, H, W, 3)
    names: list[str]


def trained(checkpoint: str, model_config: str | None) -> Subject:
    """Masks by the embeddings of a trained model, with the options of its run where it has some.

    Raises:
      UserError: as pgs.convert.load_model.
    """
    loaded = load_model(checkpoint, model_config=model_config)
    image = loaded.model.image
    masking = run_masking(checkpoint) or base.get_config().masking.to_dict()

    @functools.cache
    def select_by(name: str) -> Select:
        options = dict(masking) | {SELECTOR: name}
        return functools.partial(make_select(loaded.model, options, seed=SEED), loaded.params)

    words = f'Embeddings of {loaded.source}.'
    return Subject(select_by, image.image_size, image.patch_size, 1.0, words)


def untrained() -> Subject:
    """Masks by pixels: those of a run's first step, with the options of configs/base.py.

    At progress 0 similarity is that of pixels. Where a strategy reads embeddings all the same, the
    normalised pixels of a patch take their place.
    """
    config = base.get_config()
    image = config.model.image

    @functools.cache
    def select_by(name: str) -> Select:
        options = config.masking.to_dict() | {SELECTOR: name}
        strategy = configured(options, image.patch_size)
        if attention_shape(strategy, image.image_size, image.patch_size, 1):
            raise UserError(f'its {ATTENTION} needs a trained model: give --checkpoint')

        def apply(images, progress):
            normalized = normalize_images(images)
            patches = pixel_patches(normalized, image.patch_size)
            return strategy(jax.random.key(SEED), normalized, patches, progress)

        return jax.jit(apply)

    words = 'Without a model, as in the first step of a run.'
    return Subject(select_by, image.image_size, image.patch_size, 0.0, words)


def own_pictures(folder: str, limit: int, subject: Subject, say: Callable[[str], None]) -> Pictures:
    """The first images of a folder that can be read, each as the evaluation sees it.

    Args:
      folder: searched with its subfolders, in the order of names.
      limit: at most so many.
      subject: for the size of images and patches.
      say: is told of each image that is left out, or that a reader would not expect to look so.

    Raises:
      UserError: a folder without images, or without one that can be read.
    """
    images: list[np.ndarray] = []
    names: list[str] = []
    for file in image_files(folder):
        if len(images) == limit:
            break
        name = str(file.relative_to(Path(folder).expanduser()))
        try:
            encoded = read_small(file)
            with open_image(encoded) as image:
                size, transparent = image.size, image.has_transparency_data
            images.append(centre_crop(encoded, image_size=subject.image_size))
        except Exception as error:  # Pillow's readers raise many types of errors
            cause = f' ({reason(error)})' if isinstance(error, OSError) and error.errno else ''
            say(f'warning: {name} is left out: it is no image that can be read{cause}')
            continue
        names.append(name)
        if min(size) < subject.patch_size:
            say(
                f'note: {name} has {size[0]} x {size[1]} pixels, less than a patch of '
                f'{subject.patch_size}: it is enlarged to {subject.image_size}'
            )
        if transparent:
            say(
                f'note: {name} has transparent parts: their hidden colours are shown, as in training'
            )
    if not images:
        raise UserError(f'--images={folder}: none of its images can be read')
    return Pictures(np.stack(images), names)


def chosen_strategies(wanted: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The known ones among names of strategies; all for 'all'.

    Raises:
      UserError: none of them is known.
    """
    known = list(known_strategies())
    if list(wanted) == [ALL]:
        return known
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known)
            say(f'warning: strategy {name} is unknown: {hint}known are {", ".join(known)}')
    if not (found := [name for name in wanted if name in known]):
        raise UserError(f'--strategies={",".join(wanted)} names no strategy: known are {known}')
    return found


def draw(
    subject: Subject,
    pictures: Pictures,
    strategies: Sequence[str],
    progress: float,
    say: Callable[[str], None],
) -> Figure:
    """A row an image: the image, its edges and what each strategy leaves visible.

    A strategy that cannot run with the subject's options or patches is left out, with a warning.

    Raises:
      UserError: no strategy can run.
    """

    def left_out(name: str, reason: str) -> None:
        say(f'warning: strategy {name} is left out: {reason}')

    visible = visible_by_strategy(
        strategies,
        lambda name: subject.select_by(name)(pictures.images, progress),
        (subject.image_size // subject.patch_size) ** 2,
        left_out,
    )
    if not visible:
        raise UserError('no strategy is left to draw')
    edges = np.asarray(edge_scores(normalize_images(pictures.images), subject.patch_size))
    foot = f'{subject.words} Progress {progress:.0%}.'
    return figures.masks_figure(
        pictures.images, edges, visible, pictures.names, subject.patch_size, foot
    )


def animation(
    subject: Subject,
    pictures: Pictures,
    strategies: Sequence[str],
    say: Callable[[str], None],
) -> bytes:
    """A GIF of `draw` from progress 0 to 1, with the same random numbers in each frame.

    Raises:
      UserError: as `draw`.
    """
    say = functools.cache(say)  # a warning once, not in each frame
    frames = []
    for progress in progress_bar(np.linspace(0, 1, FRAMES), 'frames', ' frames', FRAMES):
        canvas = FigureCanvasAgg(draw(subject, pictures, strategies, float(progress), say))
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB'))
    file = io.BytesIO()
    frames[0].save(
        file, 'GIF', save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0
    )
    return file.getvalue()
