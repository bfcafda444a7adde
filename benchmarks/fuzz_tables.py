"""Targets of benchmarks/fuzz.py: the tables and JSON files of own data that prepare reads."""

import contextlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz_mutate import mutate_bytes, mutate_json, mutate_lines
from input_pipeline import plan, validate
from input_pipeline.raw.reader import Request
from input_pipeline.raw.samples import Seen
from pgs.errors import UserError

ROWS = [
    {'image': 'x.jpg', 'caption': 'a caption'},
    {'image': 'x.jpg', 'caption': 'a "second" one,\nof two lines; é'},
    {'image': '/home/me/x.jpg', 'caption': ['one', None, 'two']},
    {'image': 'https://a.example/x.jpg?q=1', 'caption': '日本語 ☕️'},
    {'image': 'C:\\photos\\..\\x.jpg', 'caption': ''},
]


def run_source(name: str) -> Callable[[bytes, Path], None]:
    """A function that prepares the samples of a file of that name, and checks their counts."""

    def run(content: bytes, folder: Path) -> None:
        import shutil

        images, out = folder / 'images', folder / 'out'
        images.mkdir(exist_ok=True)
        (images / 'x.jpg').write_bytes(b'image')
        shutil.rmtree(out, ignore_errors=True)
        (folder / name).write_bytes(content)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                request = Request(str(folder / name), images=str(images))
                opened = plan.open_plan(request, out, None)
        except UserError:
            assert not out.exists()
            raise
        members = 0
        for shard in opened.shards:
            seen = Seen()
            samples = list(opened.reader.open()(shard, seen))
            members += seen.members
            assert seen.samples == len(samples)
            assert seen.members == sum(sample.members for sample in samples)
            assert seen.cut or seen.rows == shard.rows
            for sample in samples:
                assert sample.defect is None or sample.defect in validate.REASONS
                assert sample.image is None or sample.defect is None
                sample.key.encode()
        assert opened.rows in (None, members)

    return run


def csv_seeds(folder: Path) -> list[bytes]:
    """Quoted and plain cells, three delimiters, with and without a header."""
    del folder
    import csv

    contents = []
    for delimiter, header in ((',', True), (';', True), (',', False)):
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter)
        writer.writerows([['image', 'caption']] * header + [list(row.values()) for row in ROWS])
        contents.append(buffer.getvalue().encode())
    return [*contents, b'\xef\xbb\xbf' + contents[0]]


def tsv_seeds(folder: Path) -> list[bytes]:
    return [content.replace(b',', b'\t') for content in csv_seeds(folder)]


def jsonl_seeds(folder: Path) -> list[bytes]:
    del folder
    return [
        '\n'.join(json.dumps(row, ensure_ascii=e) for row in ROWS).encode() for e in (True, False)
    ]


def annotation_seeds(folder: Path) -> list[bytes]:
    """COCO captions, Karpathy's splits and a list."""
    del folder
    coco = {
        'info': {'year': 2014},
        'images': [{'id': 1, 'file_name': 'x.jpg'}, {'id': 2, 'file_name': 'y.jpg'}],
        'annotations': [{'image_id': 1, 'caption': 'one'}, {'image_id': 1, 'caption': 'two'}],
    }
    image = {'filepath': 'images', 'filename': 'x.jpg', 'split': 'train'}
    karpathy = {'images': [image | {'sentences': [{'raw': 'one'}]}], 'dataset': 'coco'}
    return [json.dumps(content).encode() for content in (coco, karpathy, ROWS)]


def parquet_seeds(folder: Path) -> list[bytes]:
    """Images in Hugging Face's layout, as bytes, and as paths; several row groups."""
    del folder
    import pyarrow as pa
    import pyarrow.parquet

    struct = [{'image': {'bytes': b'image', 'path': 'x.jpg'}, 'text': ['one', 'two']}] * 3
    struct += [
        {'image': None, 'text': []},
        {'image': {'bytes': None, 'path': 'x.jpg'}, 'text': None},
    ]
    tables = [
        pa.Table.from_pylist(struct),
        pa.table({'jpg': [b'a', b'b', None], 'caption': ['one', 'two', 'é']}),
        pa.table({'path': ['x.jpg', 'y.jpg', 'x.jpg'], 'title': ['one', None, 'é']}),
    ]
    contents = []
    for table in tables:
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, row_group_size=2)
        contents.append(buffer.getvalue())
    return contents


def mutate_table(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """Changes of lines or of bytes."""
    return (mutate_lines if rng.random() < 0.7 else mutate_bytes)(rng, content, seeds)


# Name -> (run, seeds, mutate), for fuzz_targets.TARGETS.
TABLES = {
    'csv': (run_source('pairs.csv'), csv_seeds, mutate_table),
    'tsv of paths': (run_source('pairs.tsv'), tsv_seeds, mutate_table),
    'jsonl': (run_source('pairs.jsonl'), jsonl_seeds, mutate_table),
    'annotations': (run_source('captions.json'), annotation_seeds, mutate_json),
    'parquet': (run_source('pairs.parquet'), parquet_seeds, mutate_bytes),
}
