"""Features of a linear probe on disk, so that an interrupted evaluation does not compute them twice."""

from pathlib import Path

import jax
import numpy as np

from pgs.evaluate.context import FeatureCache
from pgs.utils.files import replacing


def cache_in(folder: Path, set_name: str, model_id: str) -> FeatureCache:
    """A feature cache in files FOLDER/<set>-<split>-<model id>.npz.

    Several processes compute without a cache: they need not see the same files, and all must take
    part if one computes.

    Args:
      folder: created with the first file.
      set_name: of the task.
      model_id: of the weights and the mask; see results_file.model_id.
    """
    if jax.process_count() > 1:
        return lambda split, compute: compute()

    def cached(split, compute):
        path = folder / f'{set_name}-{split}-{model_id}.npz'
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as file:
                    return file['features'], file['labels']
            except Exception as error:  # a damaged file raises many types of errors
                print(f'warning: {path} is damaged ({error}): its features are computed again')
        features, labels = compute()
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, features=features, labels=labels)
        return features, labels

    return cached
