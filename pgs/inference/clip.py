"""Loads a model onto all devices and embeds files, PIL images and texts with it.

Shapes: N images or texts, C labels, E embedding width.
"""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from input_pipeline.eval_sets import image_batches
from pgs import sharding
from pgs.convert import Checkpoint, check_tokenizer, load_model
from pgs.errors import UserError
from pgs.inference.embedding import Embedder, make_embedder
from pgs.inference.masking import WHOLE, ScoringMask, find_mask
from pgs.inference.prompts import SCALE, class_weights
from pgs.utils import files

BATCH_SIZE = 64  # images or texts per device
Picture = str | os.PathLike | Image.Image


def load_clip(
    checkpoint: str | os.PathLike,
    *,
    model_config: str | os.PathLike | None = None,
    masking: str = WHOLE,
) -> Embedder:
    """A model on all devices, ready to embed.

    Args:
      checkpoint, model_config: as pgs.convert.load_model.
      masking: mask of the images: 'none', 'trained' or a strategy's name; see masking.find_mask.

    Raises:
      UserError: as load_model and find_mask; a vocabulary that is not CLIP's.
    """
    loaded = load_model(checkpoint, model_config=model_config)
    return on_all_devices(loaded, mask=find_mask(masking, checkpoint, loaded.model))


def on_all_devices(
    loaded: Checkpoint, batch_size: int = BATCH_SIZE, mask: ScoringMask | None = None
) -> Embedder:
    """An Embedder with a copy of the weights on each device.

    Args:
      loaded: model and weights.
      batch_size: images or texts per device.
      mask: of the images; None: all patches are seen.

    Raises:
      UserError: a vocabulary that is not CLIP's.
    """
    check_tokenizer(loaded.config)
    mesh = sharding.make_mesh({'data': -1, 'fsdp': 1}, jax.device_count())
    embedder = make_embedder(loaded.model, mesh, batch_size * mesh.size, mask)
    return embedder.with_params(jax.device_put(loaded.params, sharding.replicated(mesh)))


def encoded(picture: Picture) -> tuple[str, bytes, None]:
    """(name, image bytes, None) of a file or a PIL image: a sample without label.

    Raises:
      UserError: a file that cannot be read.
    """
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        picture.convert('RGB').save(buffer, 'PNG', compress_level=0)
        return 'image', buffer.getvalue(), None
    try:
        return str(picture), Path(picture).expanduser().read_bytes(), None
    except OSError as error:
        raise UserError(f'cannot read {picture} ({files.reason(error)})') from error


def embed_images(clip: Embedder, pictures: Iterable[Picture]) -> np.ndarray:
    """Features of files or PIL images.

    Args:
      clip: see load_clip.
      pictures: each is resized and centre-cropped as in evaluation.

    Returns:
      Unit float32 (N, E).

    Raises:
      UserError: a picture that cannot be read, by name.
    """
    batches = image_batches(
        map(encoded, pictures), image_size=clip.image_size, batch_size=clip.batch_size
    )
    parts = [clip.images(images) for images, _ in batches]
    return np.concatenate(parts) if parts else np.zeros((0, clip.model.embed_dim), np.float32)


def embed_texts(clip: Embedder, texts: Iterable[str]) -> np.ndarray:
    """Features of texts, unit float32 (N, E); a text is cut to the model's context length."""
    return clip.texts(texts)


def classify(
    clip: Embedder,
    picture: Picture,
    labels: Sequence[str],
    *,
    templates: Sequence[str] = ('{c}',),
) -> list[tuple[str, float]]:
    """Ranks labels for a picture: softmax of 100 x cosine over the labels.

    Args:
      clip: see load_clip.
      picture: file or PIL image.
      labels: at least one; each replaces {c} in the templates.
      templates: a label's embedding is the mean over them (pgs/inference/prompts.py).

    Returns:
      (label, probability), the most probable first.

    Raises:
      UserError: no label, or a picture that cannot be read.
    """
    if not labels:
        raise UserError('no label given: name at least one, two to choose between')
    weights_CxE = class_weights(clip.texts, labels, templates)
    logits_C = SCALE * (embed_images(clip, [picture]) @ weights_CxE.T)[0]
    odds_C = np.exp(logits_C - logits_C.max())
    order = np.argsort(-odds_C, kind='stable')
    return [(labels[i], float(odds_C[i] / odds_C.sum())) for i in order]
