"""Our metrics compared with clip-benchmark's, on the same embeddings and on the same files.

Needs requirements-torch.txt; without it, these tests are skipped.
"""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
open_clip = pytest.importorskip('open_clip')
pytest.importorskip('clip_benchmark')

from clip_benchmark.datasets.builder import build_dataset, get_dataset_collate_fn  # noqa: E402
from clip_benchmark.metrics import (  # noqa: E402
    image_caption_selection,
    zeroshot_classification,
    zeroshot_retrieval,
)
from clip_benchmark.metrics import linear_probe as their_probe  # noqa: E402
from conftest import shrunk_quickstart  # noqa: E402

from pgs.convert.export import export  # noqa: E402
from pgs.convert.load import read  # noqa: E402
from pgs.evaluate import linear_probe, run, zero_shot  # noqa: E402
from pgs.evaluate.retrieval import recall_metrics  # noqa: E402
from pgs.inference import load_clip  # noqa: E402
from pgs.train import train  # noqa: E402

THEIR_TASKS = {
    'zeroshot': 'zeroshot_classification',
    'retrieval': 'zeroshot_retrieval',
    'sugar_crepe': 'image_caption_selection',
}


@pytest.fixture(autouse=True)
def numbers_of_one_element(monkeypatch):
    """clip-benchmark 1.6.2 calls float() on arrays of shape (1,), which NumPy 2.4 rejects."""
    real = torch.Tensor.numpy

    def numpy(self, *arguments, **options):
        array = real(self, *arguments, **options)
        return array.reshape(()) if array.shape == (1,) else array

    monkeypatch.setattr(torch.Tensor, 'numpy', numpy)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


# --- On the same embeddings ---


def test_accuracies():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 12)).astype(np.float32), rng.integers(0, 12, 500)
    ours = zero_shot.accuracy_metrics(zero_shot.ranks_of(logits, labels), labels, 12)
    theirs = zeroshot_classification.accuracy(
        torch.tensor(logits), torch.tensor(labels), topk=(1, 5)
    )
    np.testing.assert_allclose([ours['acc1'], ours['acc5']], theirs, atol=1e-6)


def test_average_precision():
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(300, 9)).astype(np.float32), rng.integers(0, 2, (300, 9))
    targets[:, 3] = 0
    theirs = zeroshot_classification.average_precision_per_class(
        torch.tensor(scores), torch.tensor(targets)
    )
    np.testing.assert_allclose(zero_shot.average_precisions(scores, targets), theirs, atol=1e-6)


def test_retrieval_recall():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(90), rng.integers(1, 6, 90))
    images, texts = unit(rng.normal(size=(90, 16))), unit(rng.normal(size=(len(owners), 16)))
    ours = recall_metrics(images, texts, owners, block=64)
    scores = torch.tensor(texts @ images.T)
    positive = torch.tensor(owners[:, None] == np.arange(90))
    for k in (1, 5, 10):
        for name, s, p in (('image', scores, positive), ('text', scores.T, positive.T)):
            theirs = (zeroshot_retrieval.recall_at_k(s, p, k) > 0).float().mean().item()
            assert ours[f'{name}_retrieval_recall@{k}'] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize('decay', [0.0, 0.3])
def test_the_probe_trains_to_the_same_layer(monkeypatch, decay):
    """Same initial layer and one batch per epoch, so that the order of samples does not matter."""
    for kind in (torch.nn.Module, torch.Tensor):  # clip-benchmark expects a GPU
        monkeypatch.setattr(kind, 'cuda', lambda self, *_: self)
    monkeypatch.setattr(torch.nn, 'DataParallel', lambda model, **_: model)
    rng = np.random.default_rng(0)
    features, labels = unit(rng.normal(size=(200, 8))), rng.integers(0, 4, 200)
    dataset = their_probe.FeatureDataset(torch.tensor(features), torch.tensor(labels))
    loader = torch.utils.data.DataLoader(dataset, batch_size=200)
    theirs = their_probe.train(loader, 8, 4, decay, 0.1, 10, False, 'cpu', seed=3)
    torch.manual_seed(3)
    fresh = torch.nn.Linear(8, 4)
    start = {'kernel': fresh.weight.detach().numpy().T, 'bias': fresh.bias.detach().numpy()}
    order = linear_probe.batch_order(0, 200, epochs=10, batch_size=200)
    ours = linear_probe.fit_probe(start, features, labels, order, decay)
    np.testing.assert_allclose(ours['kernel'].T, theirs.weight.detach(), atol=1e-5)
    np.testing.assert_allclose(ours['bias'], theirs.bias.detach(), atol=1e-5)


# --- On the same files ---


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A short run of a smaller quickstart, and its weights in OpenCLIP's layout."""
    folder = tmp_path_factory.mktemp('trained')
    train(shrunk_quickstart(total_steps=12), folder / 'run')
    export(read(folder / 'run'), 'open_clip', folder / 'open_clip')
    return folder


def loaded(folder):
    """clip-benchmark's side: model, preprocessing, tokenizer."""
    model, _, preprocess = open_clip.create_model_and_transforms(f'local-dir:{folder}')
    return model.eval(), preprocess, open_clip.get_tokenizer(f'local-dir:{folder}')


def their_metrics(folder, task, root) -> dict:
    model, preprocess, tokenizer = loaded(folder)
    protocol, name = task.split('/')
    full = f'sugar_crepe/{name}' if protocol == 'sugar_crepe' else f'wds/{name}'
    place = root / ('sugar_crepe' if protocol == 'sugar_crepe' else name)
    data = build_dataset(
        full,
        root=str(place),
        transform=preprocess,
        split='test',
        download=False,
        task=THEIR_TASKS[protocol],
    )
    captions = protocol != 'zeroshot'
    collate = get_dataset_collate_fn('flickr8k' if captions else full)
    if protocol == 'sugar_crepe':
        loader = torch.utils.data.DataLoader(data, batch_size=7, collate_fn=collate)
        return image_caption_selection.evaluate(model, loader, tokenizer, 'cpu', amp=False)
    loader = torch.utils.data.DataLoader(data.batched(7, collation_fn=collate), batch_size=None)
    if captions:
        return zeroshot_retrieval.evaluate(
            model, loader, tokenizer, 'cpu', amp=False, recall_k_list=[1, 5, 10]
        )
    loader.dataset.classes = data.classes
    return zeroshot_classification.evaluate(
        model, loader, tokenizer, data.classes, data.templates, 'cpu', amp=False
    )


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['random', 'trained'])
@pytest.mark.parametrize(
    'task',
    [
        'zeroshot/digits',
        'zeroshot/openmoji_names',
        'zeroshot/openmoji_tones',
        'retrieval/openmoji_pairs',
        'sugar_crepe/swap_att',
    ],
)
def test_figures_are_clip_benchmarks(kind, task, untrained_clip, trained, small_data):
    """A random model and a trained run; clip-benchmark scores the exported weights."""
    ours_from = untrained_clip if kind == 'random' else trained / 'run'
    theirs_from = untrained_clip if kind == 'random' else trained / 'open_clip'
    opened = run.open_task(task, small_data)
    ours = run.run_task(opened, load_clip(ours_from), {}, lambda split, compute: compute())
    theirs = their_metrics(theirs_from, task, small_data)
    if task.startswith('sugar_crepe'):  # with one image per item, the image is always right
        assert theirs.pop('image_acc') == 1.0
        assert theirs.pop('text_acc') == theirs['acc']
    assert theirs
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-3), name
