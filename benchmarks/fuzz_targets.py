"""What benchmarks/fuzz.py runs: readers of files, each with valid inputs and the errors it may raise.

Libraries that are slow to import are imported by the targets that need them.
"""

import contextlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.fuzz_mutate import (
    VALUES,
    geometric,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_tar,
)
from benchmarks.fuzz_tables import TABLES
from input_pipeline import labels, validate, webdataset
from input_pipeline.raw import tar_samples, url_rows
from input_pipeline.raw.samples import Seen, Shard
from pgs.errors import UserError

Mutate = Callable[[random.Random, bytes, list[bytes]], bytes]


class Target(NamedTuple):
    """A reader under test.

    Attributes:
      run: (content, folder for files) -> None; calls the reader and checks its result.
      seeds: folder -> valid inputs.
      mutate: (random numbers, valid input, all valid inputs) -> input of a case.
      refusals: the errors that the reader documents.
      weight: its share of the cases.
    """

    run: Callable[[bytes, Path], None]
    seeds: Callable[[Path], list[bytes]]
    mutate: Mutate = mutate_bytes
    refusals: tuple[type[Exception], ...] = (UserError,)
    weight: float = 1.0


def small_image(kind: str, mode: str = 'RGB', **options) -> bytes:
    """An image of 20 x 24 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, 'RGBA').convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def image_seeds(folder: Path) -> list[bytes]:
    """One image of each common format, among them an animation, a palette and EXIF."""
    del folder
    exif = Image.Exif()
    exif[0x0112] = 6
    second = [Image.new('RGB', (20, 24))]
    return [
        small_image('JPEG'),
        small_image('JPEG', progressive=True, exif=exif),
        small_image('JPEG', 'CMYK'),
        small_image('PNG', 'RGBA'),
        small_image('PNG', 'P', transparency=0),
        small_image('WEBP'),
        small_image('GIF', 'P', save_all=True, append_images=second),
        small_image('TIFF', compression='tiff_lzw'),
        small_image('BMP'),
        small_image('ICO', 'RGBA'),
        small_image('PPM'),
        small_image('TGA'),
    ]


def run_image(content: bytes, folder: Path) -> None:
    """What prepare keeps, training decodes; the views of evaluation have the size asked for."""
    del folder
    from input_pipeline import crops, images

    for read in (
        lambda: images.image_size(content),
        lambda: images.centre_crop(content, image_size=32),
    ):
        try:
            result = read()
        except ValueError:
            continue
        assert isinstance(result, tuple) or result.shape == (32, 32, 3)
    checked = validate.check_image(content)
    size = images.image_size(checked.jpeg)
    assert size == (checked.height, checked.width)
    box = crops.crop_boxes([size], np.full((1, crops.DRAWS), 0.5), (0.9, 1.0))[0]
    assert crops.cropped([checked.jpeg], [box], image_size=16).shape == (1, 16, 16, 3)


def tar_of(members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_seeds(folder: Path) -> list[bytes]:
    """Tars with and without long names and pax headers."""
    del folder
    image = small_image('JPEG', quality=5)
    members = [
        (f'{i:03}.{suffix}', content)
        for i in range(3)
        for suffix, content in (
            ('jpg', image),
            ('txt', b'a caption'),
            ('cls', b'1'),
            ('json', b'{}'),
        )
    ]
    long = [(f'{"folder/" * 20}{name}é', content) for name, content in members]
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    return [tar_of(members, forms[0]), *(tar_of(long + members, form) for form in forms[1:])]


def run_tar(content: bytes, folder: Path) -> None:
    """prepare's reader: what is yielded is what was counted."""
    path = folder / '0.tar'
    path.write_bytes(content)
    seen = Seen()
    samples = list(tar_samples.tar_samples(Shard(str(path)), seen))
    assert seen.samples == len(samples)
    assert seen.members == sum(sample.members for sample in samples) + seen.ignored
    assert all(sample.defect is None or sample.defect in validate.REASONS for sample in samples)
    for sample in samples:
        json.dumps({'key': sample.key})
        if sample.defect is None:
            sample.key.encode()


def run_eval_tar(content: bytes, folder: Path) -> None:
    """An evaluation set with this tar."""
    split = folder / 'test'
    if not split.exists():
        split.mkdir()
        (split / 'nshards.txt').write_text('1')
        (folder / 'classnames.txt').write_text('a\nb\n')
        (folder / 'zeroshot_classification_templates.txt').write_text('a {c}\n')
    (split / '0.tar').write_bytes(content)
    eval_set = webdataset.open_eval_set(folder)
    webdataset.count_samples(eval_set)
    for sample in webdataset.iter_samples(eval_set):
        assert sample.label in (0, 1)


def tsv_seeds(folder: Path) -> list[bytes]:
    """Rows in both orders; the folder has an image for the first."""
    (folder / 'images').mkdir(exist_ok=True)
    (folder / 'images' / 'x.jpg').write_bytes(small_image('JPEG'))
    rows = [
        'https://a.example/x.jpg\ta caption',
        'caption\thttp://b.example/d/my%20cat.png?q=1',
        'é\thttps://[::1]:80/x.jpg',
        'https://a.example/%00%ff/..\tx\ty',
    ]
    return ['\n'.join(rows).encode(), '\r\n'.join(rows * 20).encode()]


def run_tsv(content: bytes, folder: Path) -> None:
    """Both passes see the same rows, and each row gives one sample."""
    path = folder / 'pairs.tsv'
    path.write_bytes(content)
    images = url_rows.ImageFolder(str(folder / 'images'))
    for shard in url_rows.tsv_shards(path):
        seen = Seen()
        samples = list(url_rows.tsv_samples(shard, images, seen))
        assert len(samples) == shard.rows == seen.members == seen.samples


def caption_seeds(folder: Path) -> list[bytes]:
    del folder
    texts = (
        'A photo of a cat.',
        'cafÃ© &amp;amp; 日本語 ☕️',
        '1,000$ <b>x</b> \u200b' * 30,
        '\ufeffa',
    )
    return [text.encode() for text in texts]


def run_caption(content: bytes, folder: Path) -> None:
    """What prepare keeps can be tokenised and masked."""
    del folder
    from input_pipeline import text_masking, tokenizer, word_counts

    text = validate.check_caption(content)
    assert tokenizer.tokenize([text], 16).shape == (1, 16)
    word_counts.words_of(text)
    for mask in (text_masking.truncate, text_masking.random, text_masking.block):
        assert len(mask(text, 8, 1)) <= 8
    assert len(text_masking.frequency(text, 8, 1, drop={'cat': 0.5})) <= 8


def label_seeds(folder: Path) -> list[bytes]:
    del folder
    buffer = io.BytesIO()
    np.save(buffer, np.array([0, 1, 1, 0]))
    return [b'3', b' 2\n', 'one caption\nanother é\n'.encode(), buffer.getvalue()]


def run_label(content: bytes, folder: Path) -> None:
    del folder
    for kind in labels.EXTENSIONS:
        try:
            labels.read_label(kind, content, 4)
        except ValueError:
            continue


def tensor_seeds(folder: Path) -> list[bytes]:
    """OpenCLIP weights of a tiny model, in float32 and float16, with the model's JSON inside."""
    del folder
    import jax
    from safetensors.numpy import save

    from pgs.convert import open_clip, open_clip_config, parameters

    architecture = ARCHITECTURE
    layout = parameters.layout_of(architecture, open_clip.from_params)
    arrays = {name: np.zeros(leaf.shape, np.float32) for name, leaf in layout.items()}
    card = {open_clip.METADATA_KEY: json.dumps(open_clip_config.model_card(architecture))}
    half = jax.tree.map(lambda a: a.astype(np.float16), arrays)
    return [save(arrays, card), save(half), save({'a': np.ones((2, 3), np.int8)})]


ARCHITECTURE = {
    'embed_dim': 4,
    'image': {
        'image_size': 4,
        'patch_size': 2,
        'width': 4,
        'layers': 1,
        'heads': 2,
        'mlp_ratio': 1.0,
    },
    'text': {
        'context_length': 4,
        'vocab_size': 9,
        'width': 4,
        'layers': 1,
        'heads': 2,
        'mlp_ratio': 1.0,
    },
    'remat': 'none',
    'quick_gelu': False,
}


def mutate_tensors(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """Changes of the header's JSON, with its length in front of it; sometimes of any bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, content, seeds)
    size = int.from_bytes(content[:8], 'little')
    change = mutate_json if rng.random() < 0.7 else mutate_bytes
    header = change(rng, content[8 : 8 + size], [content[8 : 8 + size]])
    return len(header).to_bytes(8, 'little') + header + content[8 + size :]


def run_tensors(content: bytes, folder: Path) -> None:
    from pgs.convert import load

    path = folder / 'weights.safetensors'
    path.write_bytes(content)
    load.read(path, kind='open_clip')


def json_seeds(folder: Path) -> list[bytes]:
    """Files that the programs write or read: results, configs of models, SugarCrepe, word counts."""
    (folder / 'val2017').mkdir(exist_ok=True)
    (folder / 'val2017' / 'a.jpg').write_bytes(b'')
    from configs import base
    from pgs.convert import hugging_face, open_clip_config

    metrics = {'metrics': {'acc1': 0.5, 'image_retrieval_recall@1': 0.1}, 'n': 4}
    results = {
        'name': 'a run',
        'checkpoint': 'runs/a',
        'weights': '0' * 16,
        'data_root': '/data',
        'relative_training_time': 0.6,
        'tasks': {'zeroshot/imagenet1k': metrics, 'retrieval/mscoco': metrics},
    }
    item = {'filename': 'a.jpg', 'caption': 'a cat', 'negative_caption': 'a dog'}
    contents = [
        results,
        open_clip_config.model_card(ARCHITECTURE),
        hugging_face.configs(ARCHITECTURE | {'text': ARCHITECTURE['text'] | {'vocab_size': 9}})[
            'config.json'
        ],
        {'0': item, '1': item},
        {'shards': {'a': 3}, 'words': 10, 'counts': {'cat': 6}},
        base.get_config().to_dict(),
    ]
    return [json.dumps(content).encode() for content in contents]


def run_json(content: bytes, folder: Path) -> None:
    """Each reader of JSON takes the file, or refuses it."""
    from etils import epath

    from pgs.convert import hugging_face, open_clip_config, orbax_folder, parameters
    from pgs.evaluate import results_file, sugar_crepe
    from pgs.inference import masking
    from pgs.report import results

    (folder / 'checkpoints').mkdir(exist_ok=True)
    for name in ('config.json', 'results.json', 'items.json'):
        (folder / name).write_bytes(content)

    def architecture(read: Callable) -> None:
        card = open_clip_config.read_json(folder / 'config.json')
        parameters.check_architecture(open_clip_config.checked(read, card))

    def run_config() -> None:
        found = orbax_folder.read_architecture(epath.Path(folder))
        parameters.check_architecture(found)

    readers = (
        lambda: results.read_results(str(folder / 'results.json')),
        lambda: results_file.read_previous(folder / 'results.json', '0' * 16, '/data'),
        lambda: sugar_crepe.read_items(folder, 'items'),
        lambda: architecture(open_clip_config.architecture_of),
        lambda: architecture(hugging_face.architecture_of),
        run_config,
        lambda: masking.run_masking(folder),
    )
    for read in readers:
        with contextlib.suppress(UserError):
            read()


def metrics_seeds(folder: Path) -> list[bytes]:
    del folder
    records = [{'step': s, 'loss': 1 / s, 'mask_ratio': 0.4} for s in range(1, 30)]
    scores = {'step': 30, 'eval/val_loss': 1.0, 'eval/text_recall@5': None}
    lines = [json.dumps(record) for record in (*records, scores)]
    return ['\n'.join(lines).encode() + b'\n']


def run_metrics(content: bytes, folder: Path) -> None:
    """Lines that are damaged are left out; the others stay in their order."""
    from pgs.run.metrics import read_metrics

    path = folder / 'metrics.jsonl'
    path.write_bytes(content)
    assert all(isinstance(record['step'], int) for record in read_metrics(path))


def config_seeds(folder: Path) -> list[bytes]:
    """Keys of a config, one a line, in random order of the case."""
    del folder
    from pgs.config_table import TABLE

    return ['\n'.join(TABLE).encode()]


def mutate_config(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """A few flags --config.KEY=VALUE."""
    from configs import base
    from pgs.config_table import flat

    keys, defaults = content.decode().split('\n'), flat(base.get_config())
    lines = []
    for _ in range(geometric(rng)):
        key = rng.choice(keys)
        value = repr(defaults[key]) if rng.random() < 0.3 else ''
        number = rng.choice(
            (rng.uniform(-2, 2), 10 ** rng.uniform(-40, 40), rng.randrange(-9, 999))
        )
        value = value or rng.choice(
            (str(number), f'({number}, {number})', repr(rng.choice(VALUES)))
        )
        if rng.random() < 0.1:
            key = mutate_bytes(rng, key.encode(), [key.encode()]).decode('utf-8', 'replace')
        text = value.encode('utf-8', 'replace')
        lines.append(
            f'{key}='.encode() + (mutate_bytes(rng, text, seeds) if rng.random() < 0.2 else text)
        )
    return b'\0'.join(lines)


def run_config(content: bytes, folder: Path) -> None:
    """The command line and the checks of a config, but for the trial of its mask."""
    del folder
    from pgs.build import check_sizes
    from pgs.config_table import check_values
    from pgs.models import build_model

    config = parse_flags(
        [f'--config.{line}' for line in content.decode('utf-8', 'replace').split('\0')]
    )
    json.dumps(config.to_dict())
    check_values(config)
    check_sizes(config.model)
    build_model(config.model, dtype=np.float32)


def parse_flags(arguments: list[str]):
    """The config that flags describe.

    Raises:
      UserError: the one line with which the program would end.
    """
    import sys

    from absl import flags
    from ml_collections import config_flags

    from pgs.utils import cli

    values, before, argv = flags.FlagValues(), flags.FLAGS, sys.argv
    config = config_flags.DEFINE_config_file('config', None, 'test', flag_values=values)
    flags.FLAGS, sys.argv = values, ['main.py', *arguments]  # config_flags reads sys.argv itself
    try:
        cli.config_parser(config, str(cli.CONFIGS / 'quickstart.py'))(sys.argv)
    except SystemExit as error:
        raise UserError(str(error.code)) from error
    finally:
        flags.FLAGS, sys.argv = before, argv
    return config.value


TARGETS = {
    'tar': Target(run_tar, tar_seeds, mutate_tar, weight=6),
    'evaluation tar': Target(run_eval_tar, tar_seeds, mutate_tar, weight=6),
    'tsv': Target(run_tsv, tsv_seeds, mutate_lines, weight=6),
    **{name: Target(*parts) for name, parts in TABLES.items()},
    'captions': Target(run_caption, caption_seeds, refusals=(validate.DropError,), weight=3),
    'images': Target(run_image, image_seeds, refusals=(validate.DropError,), weight=3),
    'labels': Target(run_label, label_seeds, weight=6),
    'safetensors': Target(run_tensors, tensor_seeds, mutate_tensors, weight=0.5),
    'json': Target(run_json, json_seeds, mutate_json, weight=3),
    'metrics': Target(run_metrics, metrics_seeds, mutate_lines, weight=6),
    'config': Target(run_config, config_seeds, mutate_config, weight=0.5),
}
