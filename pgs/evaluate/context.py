"""What a protocol needs besides a task's data: the model, batches of images, caches.

Shapes: N images or texts, C classes, B images of a batch, H x W pixels, E embedding width.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from input_pipeline.eval_sets import LabelledImages, image_batches
from input_pipeline.tokenizer import count_cut
from pgs.inference.embedding import Embedder
from pgs.utils.console import progress_bar

Features = tuple[np.ndarray, np.ndarray]  # (unit float32 (N, E), class ids (N,))
FeatureCache = Callable[[str, Callable[[], Features]], Features]
ClassWeights = dict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray]


@dataclasses.dataclass
class Context:
    """The surroundings of one task while it is scored.

    Attributes:
      name: of the task, for progress bars.
      embedder: the model, with parameters.
      class_weights: (class names, templates) -> (C, E); shared by all tasks of a model, so that
        sets with the same classes and templates embed their prompts once.
      feature_cache: (split, () -> features) -> features, for a linear probe.
      n_cut: texts so far that were cut to the context length.
    """

    name: str
    embedder: Embedder
    class_weights: ClassWeights
    feature_cache: FeatureCache
    n_cut: int = 0

    def batches(
        self, data: LabelledImages, label: str = 'images'
    ) -> Iterator[tuple[np.ndarray, list]]:
        """(uint8 images (B, H, W, 3), B labels) of a split, with a progress bar."""
        bar = progress_bar(data.samples(), f'{self.name} {label}', ' images', data.count)
        return image_batches(
            bar, image_size=self.embedder.image_size, batch_size=self.embedder.batch_size
        )

    def embed_texts(self, texts: Iterable[str]) -> np.ndarray:
        """Texts -> unit float32 (N, E); counts those that are cut."""
        texts = list(texts)
        self.n_cut += count_cut(texts, self.embedder.model.text.context_length)
        return self.embedder.texts(texts)
