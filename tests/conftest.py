"""Fixtures: eight virtual CPU devices, photographs, the embedded data set and a tiny config."""

import collections
import contextlib
import ctypes
import gc
import itertools
import os
import signal
from importlib.metadata import version
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'  # in subprocesses too; libtpu looks for a TPU at length
# What one test has compiled, others and their subprocesses need not compile again.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(
    Path(__file__).parent.parent / '.pytest_cache' / 'xla'
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
# XLA does the same to a program, LLVM does less: it compiles in half the time. JAX 0.10 can emit
# fusions without MLIR too, in half of that; JAX 0.12 ends at a flag that it does not know.
FLAGS = ['--xla_backend_optimization_level=0']
if version('jaxlib').startswith('0.10.'):
    FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(FLAGS))
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
os.environ['GCS_RETRY_CONFIG_INIT_DELAY_TIME_US'] = '1000'  # not a second; read once a process

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)  # before any array: the tests of the mesh need them

import corpus  # noqa: E402
import fake_gcs  # noqa: E402
import small_sets  # noqa: E402

from configs import quickstart  # noqa: E402
from input_pipeline import records, sources  # noqa: E402
from pgs import sharding  # noqa: E402
from pgs.convert import Checkpoint  # noqa: E402
from pgs.convert.export import export  # noqa: E402
from pgs.masking.object_retention import photographs  # noqa: E402
from pgs.models import build_model, normalize_images  # noqa: E402
from pgs.run import checkpoint, summary  # noqa: E402

gc.freeze()  # what was imported is never freed: collections need not look at it


def pytest_collection_modifyitems(items):
    """The files with the most slow tests come first, so that two workers end at about the same time.

    For pytest-xdist with --dist=loadfile --no-loadscope-reorder; a file's tests stay together.
    """
    slow = collections.Counter(i.path for i in items if i.get_closest_marker('slow'))
    items.sort(key=lambda item: -slow[item.path])


MEMORY = 2 * 2**30  # bytes of a test process from which on it frees compiled programs


@pytest.fixture(scope='module', autouse=True)
def bounded_memory():
    """Frees what was compiled once the process is large: a worker would grow to 6 GiB."""
    yield
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    if pages * os.sysconf('SC_PAGE_SIZE') > MEMORY:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def no_mask_figures(monkeypatch):
    """A run in a test draws no figure of masks, for which strategies are traced, and no report.html.

    These take seconds. Runs of module fixtures and in processes of their own have them, and tests
    look at them there.
    """
    monkeypatch.setattr(summary, 'draw_masks', lambda *args: None)
    monkeypatch.setattr(summary, 'draw_starvation', lambda *args: None)
    monkeypatch.setattr(summary, 'write_page', lambda *args: None)


@pytest.fixture(scope='session')
def photos() -> np.ndarray:
    """Five photographs, uint8 (5, 224, 224, 3)."""
    return photographs(224)


@pytest.fixture(scope='session')
def normalized_photos(photos) -> np.ndarray:
    return np.asarray(normalize_images(photos))


@pytest.fixture(scope='session')
def embeddings() -> np.ndarray:
    """Stand-ins for patch embeddings, float32 (5, 196, 32)."""
    return np.random.default_rng(0).normal(size=(5, 196, 32)).astype(np.float32)


def shrunk_quickstart(total_steps: int):
    """The quickstart, shrunk, over white and masked to its end: a step takes milliseconds."""
    config = quickstart.get_config()
    config.update(batch_size=16, total_steps=total_steps, log_every=1, checkpoint_every=2)
    config.eval_masked = False
    config.data.name = 'openmoji'
    config.masking.until = 1.0
    config.optimizer.update(tail_rate=0.0, tail_warmup_steps=0)
    config.model.embed_dim = 16
    config.model.image.update(image_size=32, patch_size=8, width=32, layers=2, heads=2)
    config.model.text.update(context_length=24, width=32, layers=2, heads=2)
    config.model.text.tokens_per_pair = None
    return config


@contextlib.contextmanager
def sigterm_at_saves(monkeypatch, *steps: int):
    """A SIGTERM arrives when the checkpoints of these steps are saved; a run stops after the save."""
    real_save = checkpoint.save

    def save(manager, step, state):
        if step in steps:
            signal.raise_signal(signal.SIGTERM)
        real_save(manager, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, 'save', save)
        yield


def one_device_mesh(batch_size: int):
    return sharding.make_mesh({'data': 1, 'fsdp': 1}, batch_size, jax.devices()[:1])


@pytest.fixture
def tiny_config():
    return shrunk_quickstart(total_steps=6)


@pytest.fixture(scope='session')
def untrained_clip(tmp_path_factory):
    """Folder of a small CLIP with CLIP's own vocabulary and random weights, as OpenCLIP keeps one."""
    config = shrunk_quickstart(total_steps=1)
    architecture = config.model.to_dict()
    architecture.pop('dtype')
    model = build_model(architecture, dtype=np.float32)
    size, length = architecture['image']['image_size'], architecture['text']['context_length']
    images, tokens = np.zeros((1, size, size, 3), np.float32), np.zeros((1, length), np.int32)
    params = jax.jit(model.init)(jax.random.key(1), images, tokens)['params']
    folder = tmp_path_factory.mktemp('clip') / 'random'
    export(Checkpoint(model, params, architecture, 'random weights'), 'open_clip', folder)
    return folder


@pytest.fixture(scope='session')
def small_data(tmp_path_factory):
    """A few small evaluation sets, see small_sets.py."""
    root = tmp_path_factory.mktemp('sets')
    small_sets.write_digits(root, train=80, test=60)
    small_sets.write_emoji(root, count=24)
    return root


@pytest.fixture(scope='session')
def sharded(tmp_path_factory):
    """A prepared folder of twelve shards with 20 to 31 pairs each, 306 in all."""
    folder = tmp_path_factory.mktemp('sharded') / 'pairs'
    folder.mkdir()
    rng = np.random.default_rng(0)
    lengths = (20 + rng.permutation(12)).tolist()
    total, numbers = 0, itertools.count()
    for shard, length in enumerate(lengths):
        with records.ShardWriter(folder / records.shard_name(shard, len(lengths))) as writer:
            for number in itertools.islice(numbers, length):
                image = corpus.encoded(rng.integers(0, 255, (20, 24, 3)).astype(np.uint8))
                captions = [f'picture {number}']
                writer.write({'image': image, 'captions': captions, 'key': str(number)})
            total += writer.bytes
    records.write_metadata(folder, {records.SPLIT: records.Split(lengths, total)})
    return folder


@pytest.fixture(scope='module')
def cloud():
    """A stand-in for Cloud Storage, see fake_gcs.py, that all clients of this process reach."""
    with fake_gcs.serving() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield fake_gcs.Handler


@pytest.fixture(scope='session')
def train_source():
    return sources.open_train(shrunk_quickstart(total_steps=1).data)[0][0]
