"""Embeds images and texts over all devices, in batches of one size.

Shapes: N images or texts, H x W pixels, E embedding width.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline.eval_sets import chunked
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError
from pgs.inference.masking import ScoringMask
from pgs.models.clip import CLIP, normalize_images
from pgs.models.packing import fitting_budget
from pgs.sharding import batch_sharding, replicated, to_devices
from pgs.utils import phases


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model's two towers, compiled; see make_embedder and with_params.

    Attributes:
      model: both towers.
      mesh: of all devices.
      batch_size: rows of every batch, over all devices.
      image_step: (parameters, batch) -> features.
      text_step: the same with a third argument, `budget` of CLIP.embed_texts, by default None.
      params: parameter tree on the mesh, None before with_params.
    """

    model: CLIP
    mesh: Mesh
    batch_size: int
    image_step: Callable[[Any, jax.Array], jax.Array]
    text_step: Callable[..., jax.Array]
    params: Any = None

    @property
    def image_size(self) -> int:
        """Pixels along a side."""
        return self.model.image.image_size

    def with_params(self, params: Any) -> 'Embedder':
        """The same compiled functions with other parameters, which keep their sharding."""
        return dataclasses.replace(self, params=params)

    def images(self, images_NxHxWx3: np.ndarray) -> np.ndarray:
        """uint8 images -> unit float32 (N, E).

        Raises:
          UserError: features that are not finite.
        """
        return self._run(self.image_step, images_NxHxWx3, 'images')

    def texts(self, texts: Iterable[str]) -> np.ndarray:
        """Texts of any length -> unit float32 (N, E); only one batch of texts is held in memory.

        Raises:
          UserError: features that are not finite.
        """
        parts = [
            self._embed_tokens(tokenize(part, self.model.text.context_length))
            for part in chunked(texts, self.batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.embed_dim), np.float32)

    def _embed_tokens(self, tokens_NxT: np.ndarray) -> np.ndarray:
        """Features (N, E); packed where the model was trained so, with room for all tokens."""
        if self.model.text.tokens_per_pair is None:
            return self._run(self.text_step, tokens_NxT, 'texts')
        missing = self.batch_size - len(tokens_NxT)  # as _run pads
        budget = fitting_budget(np.pad(tokens_NxT, [(0, missing), (0, 0)]))
        return self._run(lambda params, x: self.text_step(params, x, budget), tokens_NxT, 'texts')

    def _run(self, step: Callable, rows: np.ndarray, kind: str) -> np.ndarray:
        """Features (N, E) of an array with N rows, in zero-padded batches."""
        parts = []
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            short = self.batch_size - len(part)
            padded = np.pad(part, [(0, short)] + [(0, 0)] * (part.ndim - 1))
            with jax.set_mesh(self.mesh):
                features = step(self.params, to_devices(self.mesh, {'x': padded})['x'])
            parts.append(np.asarray(features)[: len(part)])
            phases.progress()
        features_NxE = np.concatenate(parts)
        if bad := int((~np.isfinite(features_NxE)).any(axis=1).sum()):
            raise UserError(
                f'the model gives features that are not finite for {bad} of {len(features_NxE)} '
                f'{kind}: its weights have diverged or are damaged; use an earlier checkpoint'
            )
        return features_NxE


def make_embedder(
    model: CLIP, mesh: Mesh, batch_size: int, mask: ScoringMask | None = None
) -> Embedder:
    """An Embedder without parameters.

    Args:
      model: both towers.
      mesh: of the parameters, replicated or sharded; every host gets all features.
      batch_size: rows that all devices embed at once; rounded up to a multiple of the devices.
      mask: of the images; None: all patches are seen.
    """

    def image_step(params, images):
        images = normalize_images(images)
        select = None if mask is None else mask.select_with(params, images)
        return model.apply({'params': params}, images, select, method=CLIP.embed_images)

    def text_step(params, tokens, budget=None):
        return model.apply({'params': params}, tokens, budget, method=CLIP.embed_texts)

    inputs, output = (None, batch_sharding(mesh)), replicated(mesh)
    return Embedder(
        model,
        mesh,
        -(-batch_size // mesh.size) * mesh.size,
        jax.jit(image_step, in_shardings=inputs, out_shardings=output),
        jax.jit(text_step, in_shardings=inputs, out_shardings=output, static_argnums=2),
    )
