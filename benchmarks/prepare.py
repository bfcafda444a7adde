"""Images per second of `prepare` in one process, beside plain reading with a validating decode.

  python -m benchmarks.prepare [--images=2000] [--rounds=5]

The same 480 x 360 JPEGs are written as tars, as a folder with text files, as a folder with a CSV, and as
parquet in Hugging Face's layout. Of each source, plain reading and preparation are measured in turns.
"""

import csv
import itertools
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from absl import flags

from benchmarks import common
from benchmarks.photo_tars import make_tars
from input_pipeline import plan, tars, worker
from input_pipeline.raw.reader import Request
from input_pipeline.validate import check_image
from pgs.utils import cli

IMAGES = flags.DEFINE_integer('images', 2000, 'Images of each source.', lower_bound=100)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of all measurements.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/prepare.json', 'Path of the results.')

ROW_GROUP = 100  # rows, as Hugging Face writes images


def pairs_of(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    """(name, image, caption) of the pairs in the tars of a folder."""
    for path in sorted(folder.glob('*.tar')):
        files = ((m.name, tars.content(archive, m)) for archive, m in tars.stream(path))
        for (name, image), (_, caption) in zip(files, files, strict=True):
            yield name, image, caption.decode()


def make_sources(root: Path, count: int) -> dict[str, str]:
    """Writes the same pairs as four kinds of sources.

    Returns:
      Name -> --source. Plain readers find their files by these names too.
    """
    folders = {name: root / name for name in ('tars', 'folder', 'csv', 'parquet')}
    for folder in folders.values():
        folder.mkdir()
    pattern = make_tars(folders['tars'], count)
    image = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
    schema = pa.schema([('image', image), ('text', pa.string())])
    with (
        (folders['csv'] / 'pairs.csv').open('w', newline='') as file,
        pyarrow.parquet.ParquetWriter(folders['parquet'] / '0.parquet', schema) as parquet,
    ):
        table = csv.writer(file)
        table.writerow(['image', 'caption'])
        pairs = pairs_of(folders['tars'])
        while group := list(itertools.islice(pairs, ROW_GROUP)):
            for name, content, caption in group:
                for kind in ('folder', 'csv'):
                    (folders[kind] / name).write_bytes(content)
                (folders['folder'] / name).with_suffix('.txt').write_text(caption)
                table.writerow([name, caption])
            rows = [{'image': {'bytes': b, 'path': n}, 'text': c} for n, b, c in group]
            parquet.write_table(pa.Table.from_pylist(rows, schema))
    return {
        'tars': pattern,
        'folder': str(folders['folder']),
        'csv': str(folders['csv'] / 'pairs.csv'),
        'parquet': str(folders['parquet']),
    }


def images_of_tars(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob('*.tar')):
        with tarfile.open(path, 'r|') as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                content = file.read()
                if member.name.endswith('.jpg'):
                    yield content


def images_of_folder(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob('*.jpg')):
        yield path.read_bytes()


def images_of_parquet(folder: Path) -> Iterator[bytes]:
    for path in folder.glob('*.parquet'):
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROW_GROUP):
            yield from (cell['bytes'] for cell in batch.column('image').to_pylist())


PLAIN: dict[str, Callable[[Path], Iterator[bytes]]] = {
    'tars': images_of_tars,
    'folder': images_of_folder,
    'csv': images_of_folder,
    'parquet': images_of_parquet,
}


def read_and_check(name: str, root: Path) -> float:
    """Images per second of one process that only reads a source and decodes images to check them."""
    start, count = time.perf_counter(), 0
    for image in PLAIN[name](root / name):
        check_image(image)
        count += 1
    return count / (time.perf_counter() - start)


def prepare_once(source: str, out: Path) -> float:
    """Images per second of the preparation in this process: listing, checks, records."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    opened = plan.open_plan(Request(source), out, None)
    worker.start_worker(opened.reader)
    kept = sum(
        worker.prepare_shard(shard, i, len(opened.shards), str(out), None)['kept']
        for i, shard in enumerate(opened.shards)
    )
    return kept / (time.perf_counter() - start)


def measure(root: Path, sources: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Images per second of each measurement in each round; the first, of warm-up, is left out."""
    rates: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, source in sources.items():
            for key, value in (
                (f'read {name}', read_and_check(name, root)),
                (f'prepare {name}', prepare_once(source, root / 'out')),
            ):
                if number:
                    rates.setdefault(key, []).append(value)
                    print(f'round {number}/{rounds}  {key:<16} {value:8.0f}/s', flush=True)
    return rates


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        sources = make_sources(Path(temporary), IMAGES.value)
        rates = measure(Path(temporary), sources, ROUNDS.value)
    spreads = {name: common.spread(values) for name, values in rates.items()}
    ratios = {
        name: common.ratio(rates[f'prepare {name}'], rates[f'read {name}']) for name in sources
    }
    shown = [(name, 0, values) for name, values in spreads.items()]
    shown += [(f'prepare / read {name}', 2, values) for name, values in ratios.items()]
    for name, digits, values in shown:
        print(common.spread_line(name, values, digits))
    result = {'machine': common.machine(), 'images': IMAGES.value, 'rates': rates, 'ratios': ratios}
    common.write(OUT.value, result, {'images a second': {'': spreads}, 'ratio': {'': ratios}})


if __name__ == '__main__':
    cli.run(main)
