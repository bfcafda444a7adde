"""Retrieval of captions by image and of images by caption, with any number of captions per image.

An image is found if any of its captions is among the k closest (clip-benchmark, as CLIP and its
successors report recall). Similarities are computed block by block.

Shapes: N and M items (images or texts), R rows and C columns of a block of similarities,
E embedding width, B images of a batch.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pgs.errors import UserError
from pgs.evaluate.context import Context
from pgs.evaluate.data import Task, open_set
from pgs.loss import info_nce, similarities
from pgs.utils.console import progress_bar

KS = (1, 5, 10)
BLOCK = 4096  # rows and columns of similarities that are in memory at once: 64 MB
loss_of = jax.jit(info_nce)  # outside of jit, its scan is compiled at each call and never freed


@jax.jit
def best_of_own(rows_RxE, row_ids_R, columns_CxE, column_ids_C) -> jax.Array:
    """Similarity of each row to its closest column of the same id, -inf if there is none."""
    own_RxC = row_ids_R[:, None] == column_ids_C
    return jnp.where(own_RxC, similarities(rows_RxE, columns_CxE), -jnp.inf).max(axis=1)


@jax.jit
def count_ahead(rows_RxE, row_ids_R, columns_CxE, column_ids_C, best_R) -> jax.Array:
    """Number of columns of other ids that are at least as close as best_R; id -1 is padding."""
    other_RxC = (row_ids_R[:, None] != column_ids_C) & (column_ids_C >= 0)
    return (other_RxC & (similarities(rows_RxE, columns_CxE) >= best_R[:, None])).sum(axis=1)


def blocks(features_NxE: np.ndarray, ids_N: np.ndarray, size: int) -> Iterator[tuple]:
    """(features, ids) of `size` items each, the last one padded with zeros and with id -1."""
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
    """The number of columns of other ids that are closer to a row than the best of its own id.

    Ties count against the row, so that constant features do not score as perfect.

    Args:
      rows_NxE, columns_MxE: unit float32.
      row_ids_N, column_ids_M: non-negative; a row and a column of the same id belong together.
      block: rows and columns at once; memory is block x block floats.
      notify: called with the number of rows done since the last call.

    Returns:
      int (N,): a row is a hit at k if this is below k.
    """
    block = min(block, max(len(row_ids_N), len(column_ids_M)))
    ranks = []
    for rows, ids in blocks(rows_NxE, row_ids_N, block):
        # Both passes compute the same product, so a similarity is equal to the last bit in both.
        best = np.full(block, -np.inf, np.float32)
        for columns, column_ids in blocks(columns_MxE, column_ids_M, block):
            if np.isin(column_ids, ids[ids >= 0]).any():
                best = np.maximum(best, best_of_own(rows, ids, columns, column_ids))
        columns = blocks(columns_MxE, column_ids_M, block)
        ahead = sum(count_ahead(rows, ids, *part, best) for part in columns)
        ranks.append(np.asarray(ahead)[ids >= 0])
        notify(len(ranks[-1]))
    return np.concatenate(ranks)


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
      image_of_text_M: int, which image each text describes; every image has at least one text.
      block, notify: as in match_ranks; the rows of both directions are N + M in total.

    Returns:
      image_retrieval_recall@k: share of texts whose image is among the k closest images;
      text_retrieval_recall@k: share of images with any of their texts among the k closest texts.

    Raises:
      UserError: an image without a text.
    """
    count = len(image_features_NxE)
    if bare := np.setdiff1d(np.arange(count), image_of_text_M).tolist():
        raise UserError(
            f'image {bare[0]} has no caption ({len(bare)} without one): each image needs one'
        )
    images = image_features_NxE, np.arange(count)
    texts = text_features_MxE, np.asarray(image_of_text_M)
    text_ranks = match_ranks(*texts, *images, block=block, notify=notify)
    image_ranks = match_ranks(*images, *texts, block=block, notify=notify)
    metrics = {}
    for k in KS:
        metrics[f'image_retrieval_recall@{k}'] = float((text_ranks < k).mean())
        metrics[f'text_retrieval_recall@{k}'] = float((image_ranks < k).mean())
    return metrics


def embed_captioned(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, embed_texts: Callable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of a retrieval set.

    Args:
      batches: (uint8 images (B, height, width, 3), for each image the list of its captions).
      embed_images: images -> unit float32 (B, E).
      embed_texts: texts -> unit float32 (M, E).

    Returns:
      The first three arguments of recall_metrics.
    """
    images: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    owners: list[int] = []
    count = 0
    for pixels, captions in batches:
        images.append(embed_images(pixels))
        texts.append(embed_texts(text for own in captions for text in own))
        owners += [count + i for i, own in enumerate(captions) for _ in own]
        count += len(captions)
    return np.concatenate(images), np.concatenate(texts), np.array(owners)


def pair_scores(
    image_features_NxE: np.ndarray, text_features_NxE: np.ndarray, scale: float
) -> dict[str, float]:
    """Scores of pairs, one caption per image, as a run writes them for its held-out split.

    Args:
      image_features_NxE, text_features_NxE: unit norm; row i of both is one pair.
      scale: the model's factor on the cosines.

    Returns:
      val_loss: InfoNCE over all N pairs as one batch (log N for constant features);
      text_recall@k, image_recall@k; chance@k = min(k / N, 1), for k = 1 and 5; n_eval = N.
    """
    count = len(image_features_NxE)
    metrics = recall_metrics(image_features_NxE, text_features_NxE, np.arange(count))
    images, texts = jnp.asarray(image_features_NxE), jnp.asarray(text_features_NxE)
    scores = {'val_loss': float(loss_of(images, texts, jnp.asarray(scale)))}
    for k in (1, 5):
        scores[f'text_recall@{k}'] = metrics[f'text_retrieval_recall@{k}']
        scores[f'image_recall@{k}'] = metrics[f'image_retrieval_recall@{k}']
        scores[f'chance@{k}'] = min(k / count, 1.0)
    return scores | {'n_eval': count}


def open_task(task: str, root: Path) -> Task | str:
    """Opens a set of images with captions; see Protocol.open_task."""
    data = open_set(task, root, ('retrieval',))
    return data if isinstance(data, str) else Task(task, 'retrieval', data)


def score_task(task: Task, context: Context) -> dict[str, float]:
    """recall_metrics, n, n_texts and n_cut."""
    features = embed_captioned(
        context.batches(task.data), context.embedder.images, context.embed_texts
    )
    n, n_texts = len(features[0]), len(features[1])
    with progress_bar(None, f'{task.name} ranks', ' rows', n + n_texts) as bar:
        metrics = recall_metrics(*features, notify=bar.update)
    return metrics | {'n': n, 'n_texts': n_texts, 'n_cut': context.n_cut}
