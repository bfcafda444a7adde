"""Retrieval of captions by image and of images by caption, whatever the number of captions.

An image's captions all count: it is found if any of them is among the k closest (clip-benchmark,
as CLIP and its successors report recall). Similarities exist block by block.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pgs.errors import UserError
from pgs.loss import info_nce

KS = (1, 5, 10)
BLOCK = 4096  # rows and columns of similarities that exist at one time: 64 MB


def similarities(rows_RxE: jax.Array, columns_CxE: jax.Array) -> jax.Array:
    return jnp.einsum('re,ce->rc', rows_RxE, columns_CxE, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def best_of_own(rows_RxE, row_ids_R, columns_CxE, column_ids_C) -> jax.Array:
    """Similarity of each row to its closest column of the same id, -inf where there is none."""
    own_RxC = row_ids_R[:, None] == column_ids_C
    return jnp.where(own_RxC, similarities(rows_RxE, columns_CxE), -jnp.inf).max(axis=1)


@jax.jit
def count_ahead(rows_RxE, row_ids_R, columns_CxE, column_ids_C, best_R) -> jax.Array:
    """Columns of other ids that are at least as close as best_R; negative ids are padding."""
    other_RxC = (row_ids_R[:, None] != column_ids_C) & (column_ids_C >= 0)
    return (other_RxC & (similarities(rows_RxE, columns_CxE) >= best_R[:, None])).sum(axis=1)


def blocks(features_NxE: np.ndarray, ids_N: np.ndarray, size: int) -> Iterator[tuple]:
    """(features, ids) of `size` rows each, the last one padded with zeros and with id -1."""
    for start in range(0, len(ids_N), size):
        features, ids = features_NxE[start : start + size], ids_N[start : start + size]
        if short := size - len(ids):
            features = np.pad(features, ((0, short), (0, 0)))
            ids = np.pad(ids, (0, short), constant_values=-1)
        yield features, ids


def match_ranks(
    rows_NxE: np.ndarray,
    row_ids_N: np.ndarray,
    columns_MxE: np.ndarray,
    column_ids_M: np.ndarray,
    *,
    block: int = BLOCK,
    notify: Callable[[int], object] = lambda rows: None,
) -> np.ndarray:
    """How many columns of other ids come before each row's best column of its own id.

    Ties count against the row, so that constant features score as chance and not as 1.

    Args:
      rows_NxE, columns_MxE: unit float32.
      row_ids_N, column_ids_M: non-negative; a row and a column of one id belong together.
      block: rows and columns at one time; memory is block x block floats.
      notify: called with the number of rows done since the last call.

    Returns:
      int (N,): a row is a hit at k where this is below k.
    """
    block = min(block, max(len(row_ids_N), len(column_ids_M)))
    found = []
    for rows, ids in blocks(rows_NxE, row_ids_N, block):
        # The same product in both passes: a similarity is then the same to the last bit.
        best = np.full(block, -np.inf, np.float32)
        for columns, column_ids in blocks(columns_MxE, column_ids_M, block):
            if np.isin(column_ids, ids[ids >= 0]).any():
                best = np.maximum(best, best_of_own(rows, ids, columns, column_ids))
        columns = blocks(columns_MxE, column_ids_M, block)
        ahead = sum(count_ahead(rows, ids, *part, best) for part in columns)
        found.append(np.asarray(ahead)[ids >= 0])
        notify(len(found[-1]))
    return np.concatenate(found)


def recall_metrics(
    image_features_NxE: np.ndarray,
    text_features_MxE: np.ndarray,
    image_of_text_M: np.ndarray,
    *,
    block: int = BLOCK,
    notify: Callable[[int], object] = lambda rows: None,
) -> dict[str, float]:
    """Recall in both directions by clip-benchmark's names.

    Args:
      image_features_NxE, text_features_MxE: unit float32.
      image_of_text_M: int, which image each text describes; every image has one text at least.
      block, notify: as in places; rows are those of both directions, N + M in all.

    Returns:
      image_retrieval_recall@k: share of texts whose image is among the k closest images;
      text_retrieval_recall@k: share of images of which any text is among the k closest texts.

    Raises:
      UserError: an image without a text.
    """
    count = len(image_features_NxE)
    if bare := np.setdiff1d(np.arange(count), image_of_text_M).tolist():
        raise UserError(f'image {bare[0]} has no caption ({len(bare)} such): each needs one')
    images = image_features_NxE, np.arange(count)
    texts = text_features_MxE, np.asarray(image_of_text_M)
    options = {'block': block, 'notify': notify}
    text_places, image_places = (
        match_ranks(*texts, *images, **options),
        match_ranks(*images, *texts, **options),
    )
    metrics = {}
    for k in KS:
        metrics[f'image_retrieval_recall@{k}'] = float((text_places < k).mean())
        metrics[f'text_retrieval_recall@{k}'] = float((image_places < k).mean())
    return metrics


def embed_captioned(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, embed_texts: Callable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of a retrieval set.

    Args:
      batches: (uint8 images (b, H, W, 3), for each image the list of its captions).
      embed_images: images -> unit float32 (b, E).
      embed_texts: texts -> unit float32 (m, E).

    Returns:
      The first three arguments of recall_metrics.
    """
    images, texts, owners, count = [], [], [], 0
    for pixels, captions in batches:
        images.append(embed_images(pixels))
        texts.append(embed_texts(text for own in captions for text in own))
        owners += [count + i for i, own in enumerate(captions) for _ in own]
        count += len(captions)
    return np.concatenate(images), np.concatenate(texts), np.array(owners)


def pair_scores(
    image_features_NxE: np.ndarray, text_features_NxE: np.ndarray, scale: float
) -> dict:
    """Scores of pairs, one caption an image, as a run writes them for its held-out split.

    Args:
      image_features_NxE, text_features_NxE: unit norm, row i of both is one pair.
      scale: the model's factor on the cosines.

    Returns:
      val_loss: InfoNCE over all N pairs as one batch (log N for features that tell nothing);
      text_recall@k, image_recall@k; chance@k = min(k / N, 1), for k = 1 and 5; n_eval = N.
    """
    count = len(image_features_NxE)
    metrics = recall_metrics(image_features_NxE, text_features_NxE, np.arange(count))
    scores = {'val_loss': float(info_nce(image_features_NxE, text_features_NxE, scale))}
    for k in (1, 5):
        scores[f'text_recall@{k}'] = metrics[f'text_retrieval_recall@{k}']
        scores[f'image_recall@{k}'] = metrics[f'image_retrieval_recall@{k}']
        scores[f'chance@{k}'] = min(k / count, 1.0)
    return scores | {'n_eval': count}
