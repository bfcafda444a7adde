"""Class names in prompt templates, as one text embedding per class (CLIP, arXiv 2103.00020, 3.1.4).

Shapes: N texts, C classes, E embedding width.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pgs.errors import UserError

SCALE = (
    100.0  # factor on the cosines, the limit of CLIP's logit scale; it does not change a ranking
)


def prompts_of(classnames: Sequence[str], templates: Sequence[str]) -> Iterable[str]:
    """Each class name in each template, class by class; a generator."""
    return (t.replace('{c}', name) for name in classnames for t in templates)


def class_weights(
    embed_texts: Callable[[Iterable[str]], np.ndarray],
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    classes_at_once: int = 64,
    notify: Callable[[int], object] = lambda prompts: None,
) -> np.ndarray:
    """The normalised mean over templates of normalised text embeddings, for each class.

    Args:
      embed_texts: texts -> unit float32 (N, E).
      classnames: of the C classes, in the order of their ids.
      templates: each with {c} in place of the class name.
      classes_at_once: number of classes whose prompts' features are in memory at once.
      notify: called with the number of prompts that were embedded since the last call.

    Returns:
      float32 (C, E), unit norm.

    Raises:
      UserError: no class or no template.
    """
    if not classnames or not templates:
        raise UserError(
            f'zero-shot needs class names and templates: {len(classnames)} and {len(templates)} given'
        )
    weights = []
    for start in range(0, len(classnames), classes_at_once):
        part = classnames[start : start + classes_at_once]
        features = embed_texts(prompts_of(part, templates))
        means = features.reshape(len(part), len(templates), -1).mean(axis=1)
        weights.append(means / np.linalg.norm(means, axis=1, keepdims=True))
        notify(len(features))
    return np.concatenate(weights).astype(np.float32)
