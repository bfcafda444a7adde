"""Retrieval of captions by image and of images by caption, one caption an image."""

from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from pgs.models.clip import CLIP, normalize_images
from pgs.sharding import batch_sharding, replicated, to_devices


def recall_at(similarity_NxM: np.ndarray, k: int) -> float:
    """Share of rows whose own column (same index) is among their k highest.

    Ties count against the row, so that constant features score 0 and not 1.
    """
    own = np.diagonal(similarity_NxM)[:, None]
    rank = (similarity_NxM >= own).sum(axis=1) - 1
    return float((rank < k).mean())


def retrieval_scores(image_features_NxE: np.ndarray, text_features_NxE: np.ndarray) -> dict:
    """Recall in both directions beside chance (clip-benchmark's names, k = 1 and 5).

    Args:
      image_features_NxE, text_features_NxE: unit norm, row i of both is one pair.

    Returns:
      text_recall@k: the image's caption is among its k closest; image_recall@k: the other way
      round; chance@k = min(k / N, 1); n_eval = N.
    """
    similarity_NxN = image_features_NxE @ text_features_NxE.T
    count = len(similarity_NxN)
    scores = {}
    for k in (1, 5):
        scores[f'text_recall@{k}'] = recall_at(similarity_NxN, k)
        scores[f'image_recall@{k}'] = recall_at(similarity_NxN.T, k)
        scores[f'chance@{k}'] = min(k / count, 1.0)
    return scores | {'n_eval': count}


def make_embed(model: CLIP, mesh: Mesh):
    """Jitted (params, batch) -> (image features, text features), float32, all patches seen."""

    def embed(params, batch):
        out = model.apply({'params': params}, normalize_images(batch['images']), batch['tokens'])
        return out['image_features'], out['text_features']

    # The parameters stay as they lie, whole or split; every host gets all features.
    shardings = (None, batch_sharding(mesh))
    return jax.jit(embed, in_shardings=shardings, out_shardings=replicated(mesh))


def evaluate(embed, params, batches: Iterable[dict[str, np.ndarray]], mesh: Mesh) -> dict:
    """Scores of the pairs in `eval_batches`; padded rows are left out."""
    features = []
    for batch in batches:
        real = batch.pop('real')
        with jax.set_mesh(mesh):
            image_features, text_features = embed(params, to_devices(mesh, batch))
        features.append((np.asarray(image_features)[real], np.asarray(text_features)[real]))
    image_features, text_features = (np.concatenate(f) for f in zip(*features, strict=True))
    if not (np.isfinite(image_features).all() and np.isfinite(text_features).all()):
        raise FloatingPointError('the model gives features that are not finite: it has diverged')
    return retrieval_scores(image_features, text_features)
