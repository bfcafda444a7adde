"""Scores on the held-out pairs of the training data: loss and recall of the validation split.

They are computed for whole images and, with config.eval_masked, for masked ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from input_pipeline.eval_sets import image_batches
from input_pipeline.sources import Records, captions_of
from pgs.evaluate import retrieval
from pgs.inference.embedding import Embedder
from pgs.utils.console import progress_bar

MODEL_SCORES = ('val_loss', 'text_recall@1', 'text_recall@5', 'image_recall@1', 'image_recall@5')
SCORE_NAMES = (*MODEL_SCORES, 'chance@1', 'chance@5', 'n_eval')
MASKED = 'masked/'  # precedes the names of the scores on masked images
MASKED_NAMES = tuple(MASKED + name for name in MODEL_SCORES)
Scores = dict[str, Any]  # name -> float, or None where there is nothing to score


class Pairs(Protocol):
    """Records with an encoded image and captions, as `Records` has them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...

    def location(self, index: int, /) -> str: ...


def held_out_scorer(
    embedder: Embedder, source: Records | None, masked_embedder: Embedder | None = None
) -> Callable[[Any], Scores]:
    """A function params -> scores of a source of pairs, as retrieval.pair_scores gives them.

    Args:
      embedder: of the run's model and mesh, without parameters.
      source: None where the data set has no validation split; every score is then None.
      masked_embedder: the same with the run's mask; without it there are no scores MASKED_NAMES.
    """
    if source is None:
        return lambda params: dict.fromkeys(SCORE_NAMES)
    embedders = [embedder] if masked_embedder is None else [embedder, masked_embedder]

    def score(params: Any) -> Scores:
        with_params = [e.with_params(params) for e in embedders]
        texts_NxE, *images_NxE = features_of(with_params, source)
        scale = float(jnp.exp(params['logit_scale']))
        scores, *of_masks = (retrieval.pair_scores(i, texts_NxE, scale) for i in images_NxE)
        for of_mask in of_masks:
            scores |= {name: of_mask[name.removeprefix(MASKED)] for name in MASKED_NAMES}
        return scores

    return score


def features_of(embedders: Sequence[Embedder], source: Pairs) -> list[np.ndarray]:
    """Features (N, E) of all pairs: of the first captions, then of the images by each embedder.

    Args:
      embedders: with parameters; the first one embeds the captions as well.
      source: of N pairs.
    """
    first = embedders[0]

    def samples() -> Iterator[tuple[str, bytes, str]]:
        for index in range(len(source)):
            record = source[index]
            yield source.location(index), record['image'], captions_of(record)[0]

    bar = progress_bar(samples(), 'Scoring held-out pairs', ' pairs', len(source))
    features = [
        (first.texts(captions), *(e.images(images) for e in embedders))
        for images, captions in image_batches(
            bar, image_size=first.image_size, batch_size=first.batch_size
        )
    ]
    return [np.concatenate(side) for side in zip(*features, strict=True)]
