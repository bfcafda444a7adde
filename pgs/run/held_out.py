"""Scores on the held-out pairs of the training data: loss and recall of the validation split."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from input_pipeline.eval_sets import image_batches
from input_pipeline.sources import Records, captions_of
from pgs.evaluate import retrieval
from pgs.inference.embedding import Embedder
from pgs.utils.console import progress_bar

SCORE_NAMES = (
    'val_loss',
    'text_recall@1',
    'text_recall@5',
    'image_recall@1',
    'image_recall@5',
    'chance@1',
    'chance@5',
    'n_eval',
)
Scores = dict[str, Any]  # name -> float, or None where there is nothing to score


def held_out_scorer(embedder: Embedder, source: Records | None) -> Callable[[Any], Scores]:
    """A function params -> scores of a source of pairs, as retrieval.pair_scores gives them.

    Args:
      embedder: of the run's model and mesh, without parameters.
      source: None where the data set has no validation split; every score is then None.
    """
    if source is None:
        return lambda params: dict.fromkeys(SCORE_NAMES)

    def samples() -> Iterator[tuple[str, bytes, str]]:
        for index in range(len(source)):
            record = source[index]
            yield source.location(index), record['image'], captions_of(record)[0]

    def score(params: Any) -> Scores:
        with_params = embedder.with_params(params)
        bar = progress_bar(samples(), 'Scoring held-out pairs', ' pairs', len(source))
        features = [
            (with_params.images(images), with_params.texts(captions))
            for images, captions in image_batches(
                bar, image_size=embedder.image_size, batch_size=embedder.batch_size
            )
        ]
        images_NxE, texts_NxE = (np.concatenate(side) for side in zip(*features, strict=True))
        scale = float(jnp.exp(params['logit_scale']))
        return retrieval.pair_scores(images_NxE, texts_NxE, scale)

    return score
