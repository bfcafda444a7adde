"""Images and texts to features, over all devices, in batches of one size."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline.eval_sets import chunked
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError
from pgs.models.clip import CLIP, normalize_images
from pgs.sharding import batch_sharding, replicated, to_devices


@dataclasses.dataclass(frozen=True)
class Embedder:
    """What an evaluation needs of a model; see make_embedder and with_params."""

    model: CLIP
    mesh: Mesh
    batch_size: int
    image_step: Callable
    text_step: Callable
    params: Any = None

    @property
    def image_size(self) -> int:
        return self.model.image.image_size

    def with_params(self, params) -> 'Embedder':
        """The same compiled functions on other parameters, laid out on the mesh as they come."""
        return dataclasses.replace(self, params=params)

    def images(self, images_NxHxWx3: np.ndarray) -> np.ndarray:
        """uint8 images, all patches seen -> unit float32 (N, E).

        Raises:
          UserError: features that are not finite.
        """
        return self._run(self.image_step, images_NxHxWx3, 'images')

    def texts(self, texts: Iterable[str]) -> np.ndarray:
        """Texts of any length -> unit float32 (N, E); all of them in memory as features alone.

        Raises:
          UserError: features that are not finite.
        """
        parts = [
            self._run(self.text_step, tokenize(part, self.model.text.context_length), 'texts')
            for part in chunked(texts, self.batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.embed_dim), np.float32)

    def _run(self, step: Callable, rows_Nx: np.ndarray, what: str) -> np.ndarray:
        parts = []
        for start in range(0, len(rows_Nx), self.batch_size):
            part = rows_Nx[start : start + self.batch_size]
            short = self.batch_size - len(part)
            padded = np.pad(part, [(0, short)] + [(0, 0)] * (part.ndim - 1))
            with jax.set_mesh(self.mesh):
                features = step(self.params, to_devices(self.mesh, {'x': padded})['x'])
            parts.append(np.asarray(features)[: len(part)])
        features_NxE = np.concatenate(parts)
        if bad := int((~np.isfinite(features_NxE)).any(axis=1).sum()):
            raise UserError(
                f'the model gives features that are not finite for {bad} of {len(features_NxE)} '
                f'{what}: its weights have diverged or are damaged; take an earlier checkpoint'
            )
        return features_NxE


def make_embedder(model: CLIP, mesh: Mesh, batch_size: int) -> Embedder:
    """An Embedder without parameters.

    Args:
      model: both towers.
      mesh: the parameters lie on it, whole or split; every host gets all features.
      batch_size: rows that all devices embed at once; raised to a multiple of the devices.
    """

    def image_step(params, images):
        images = normalize_images(images)
        return model.apply({'params': params}, images, method=CLIP.embed_images)

    def text_step(params, tokens):
        return model.apply({'params': params}, tokens, method=CLIP.embed_texts)

    layout = {
        'in_shardings': (None, batch_sharding(mesh)),
        'out_shardings': replicated(mesh),
    }
    batch_size = -(-batch_size // mesh.size) * mesh.size
    return Embedder(
        model, mesh, batch_size, jax.jit(image_step, **layout), jax.jit(text_step, **layout)
    )
