"""Opens the data of a task, runs its protocol, and returns its metrics."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import eval_sets
from input_pipeline.eval_sets import LabelledImages, image_batches
from input_pipeline.tokenizer import count_cut
from pgs.errors import UserError
from pgs.evaluate import linear_probe, retrieval, zero_shot
from pgs.evaluate import sugar_crepe as compositional
from pgs.evaluate.tasks import SETS, place_of
from pgs.inference import prompts
from pgs.inference.embedding import Embedder
from pgs.utils.console import progress_bar

KINDS = {'zeroshot': ('classification', 'multilabel'), 'retrieval': ('retrieval',),
         'linear_probe': ('classification',)}  # fmt: skip
VALIDATION_SPLITS = ('val', 'validation')


class Task(NamedTuple):
    """A task with its data opened: images unread."""

    name: str
    kind: str  # 'classification', 'multilabel', 'retrieval', 'linear_probe', 'sugar_crepe'
    data: LabelledImages
    train: LabelledImages | None = None  # of a linear probe, as the next one
    validation: LabelledImages | None = None


def open_task(task: str, data_root: str | os.PathLike) -> Task | str:
    """Opens a task's data.

    Args:
      task: '<protocol>/<set>', see pgs/evals/tasks.py.
      data_root: folder with one folder a set, or with TFDS sets.

    Returns:
      The task; or, where its data is absent, a line on where to put it.

    Raises:
      UserError: data that is there and that does not fit the task.
    """
    protocol, name = task.split('/')
    root = Path(data_root).expanduser()
    if protocol == 'sugar_crepe':
        folder = root / 'sugar_crepe'
        if not (folder / f'{name}.json').is_file():
            return f'{folder / name}.json, and the images of COCO val2017 in {folder / "val2017"}'
        items = compositional.read_items(folder, name)
        data = LabelledImages(
            f'{folder / name}.json', 'captions', [], [], len(items),
            lambda: compositional.read_images(items),
        )  # fmt: skip
        return Task(task, 'sugar_crepe', data)

    folder, in_tfds = place_of(name)
    data = eval_sets.open_tars(root, folder, 'test')
    if data is None and in_tfds and protocol != 'retrieval':
        data = eval_sets.open_tfds(root, *in_tfds)
    if data is None:
        also = f' (or the TFDS set {in_tfds[0]}, prepared there)' if in_tfds else ''
        if name not in SETS and (near := difflib.get_close_matches(name, SETS, n=1)):
            also = f'; did you mean {protocol}/{near[0]}?'
        return f"{root / folder}, with test/, in CLIP-benchmark's layout{also}"
    if data.kind not in KINDS[protocol]:
        raise UserError(
            f'{task}: {data.origin} is a {data.kind} set, no {" or ".join(KINDS[protocol])} one'
        )
    if protocol != 'linear_probe':
        return Task(task, data.kind, data)
    if data.origin.startswith('TFDS'):
        train, validation = eval_sets.open_tfds(root, in_tfds[0], 'train'), None
    else:
        train = eval_sets.open_tars(root, folder, 'train')
        held = (eval_sets.open_tars(root, folder, split) for split in VALIDATION_SPLITS)
        validation = next((split for split in held if split is not None), None)
    if train is None:
        return f'{root / folder}/train: a linear probe trains on it'
    return Task(task, 'linear_probe', data, train, validation)


def open_tasks(names: list[str], data_root: str | os.PathLike) -> tuple[list[Task], dict, dict]:
    """Opens all that can be: (tasks, {absent: where to put it}, {unusable: why})."""
    opened, missing, failed = [], {}, {}
    for name in names:
        try:
            found = open_task(name, data_root)
        except UserError as error:
            failed[name] = str(error)
            continue
        if isinstance(found, str):
            missing[name] = found
        else:
            opened.append(found)
    return opened, missing, failed


def run_task(
    task: Task,
    embedder: Embedder,
    class_weights: dict,
    feature_cache: Callable[[str, Callable], tuple[np.ndarray, np.ndarray]],
) -> dict:
    """Metrics of a task by clip-benchmark's names, as shares in [0, 1], and counts.

    The counts: n, images; n_cut, texts that lost their tail to the context length; n_texts.

    Args:
      task: of open_task.
      embedder: with parameters.
      class_weights: kept by the caller from task to task: sets of the same classes and templates
        embed their texts once.
      feature_cache: (split, () -> (features, labels)) -> (features, labels), of a linear probe.

    Raises:
      UserError: data or features that cannot be used.
    """

    def batches(data: LabelledImages, what: str = 'images'):
        bar = progress_bar(data.samples(), f'{task.name} {what}', ' images', data.count)
        return image_batches(bar, image_size=embedder.image_size, batch_size=embedder.batch_size)

    cut = 0

    def embed_texts(texts):
        nonlocal cut
        texts = list(texts)
        cut += count_cut(texts, embedder.model.text.context_length)
        return embedder.texts(texts)

    if task.kind == 'sugar_crepe':
        metrics = compositional.prefer_captions(batches(task.data), embedder.images, embed_texts)
        return metrics | {'n_cut': cut}
    if task.kind == 'retrieval':
        features = retrieval.embed_captioned(batches(task.data), embedder.images, embed_texts)
        n, n_texts = len(features[0]), len(features[1])
        with progress_bar(None, f'{task.name} ranks', ' rows', n + n_texts) as bar:
            metrics = retrieval.recall_metrics(*features, notify=bar.update)
        return metrics | {'n': n, 'n_texts': n_texts, 'n_cut': cut}
    if task.kind == 'linear_probe':

        def features_of(data, split):
            parts = [
                (embedder.images(images), np.asarray(labels))
                for images, labels in batches(data, f'{split} images')
            ]
            return tuple(np.concatenate(side) for side in zip(*parts, strict=True))

        splits = {'train': task.train, 'test': task.data, 'validation': task.validation}
        found = {
            split: feature_cache(split, lambda data=data, split=split: features_of(data, split))
            for split, data in splits.items()
            if data is not None
        }
        most = linear_probe.MOST_TRIALS
        with progress_bar(None, f'{task.name} weight decays', ' tried', most) as bar:
            return linear_probe.linear_probe(
                found['train'],
                found['test'],
                found.get('validation'),
                len(task.data.classnames),
                notify=lambda decay: bar.update(),
            )

    key = tuple(task.data.classnames), tuple(task.data.templates)
    if key not in class_weights:
        total = len(key[0]) * len(key[1])
        with progress_bar(None, f'{task.name} prompts', ' prompts', total) as bar:
            class_weights[key] = prompts.class_weights(embed_texts, *key, notify=bar.update)
    score = zero_shot.classify if task.kind == 'classification' else zero_shot.classify_multilabel
    return score(batches(task.data), embedder.images, class_weights[key]) | {'n_cut': cut}
