"""Finds out what a source is and how it is read, before anything is written."""

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from input_pipeline.raw import (
    annotations,
    columns,
    folders,
    parquet,
    tables,
    tar_samples,
    url_rows,
)
from input_pipeline.raw.image_files import is_url
from input_pipeline.raw.reader import Reader, Request
from input_pipeline.raw.samples import Row, Shard
from pgs.errors import UserError
from pgs.utils.files import check_regular, reason

METADATA = ('metadata.csv', 'metadata.tsv', 'metadata.jsonl', 'metadata.parquet')  # of a folder
TABLES = ('.csv', '.tsv', '.jsonl', '.parquet', '.json')
LABELS = (
    'put NAME.txt beside each NAME.jpg, or a metadata.csv with the columns file_name and text, or '
    "give --template='a photo of a {}' if the folders are named after classes"
)


class Layout(NamedTuple):
    """A source that was understood.

    Attributes:
      sentence: what was understood, for the console.
      reader: for the workers.
      shards: of a source that is read where it lies.
      missing: paths that the source names but that do not exist.
      rows: of a source that becomes a list: a function that reads it anew.
      joins: several rows may name one image.
      takes: the options that have a meaning for it.
      where: the source, for messages.
    """

    sentence: str
    reader: Reader
    where: str
    shards: list[Shard] | None = None
    missing: tuple[str, ...] = ()
    rows: Callable[[], Iterable[Row]] | None = None
    joins: bool = True
    takes: tuple[str, ...] = ()


IN_TABLES = ('--images', '--image_key', '--caption_key')


def find(request: Request, out: str) -> Layout:
    """Finds out what a source is.

    Args:
      request: what the command was asked to read.
      out: the prepared folder, which is no part of a folder of images.

    Raises:
      UserError: a source that cannot be used, or an option that it does not take.
    """
    if request.images is not None:
        check_image_folder(request.images)
    try:
        layout = layout_of(request, out)
    except OSError as error:
        where = f': {error.filename}' if error.filename else ''
        raise UserError(f'cannot read --source={request.source}: {reason(error)}{where}') from error
    for flag, given in (
        ('--images', request.images),
        ('--image_key', request.image_key),
        ('--caption_key', request.caption_key),
        ('--template', request.template),
    ):
        if given is not None and flag not in layout.takes:
            raise UserError(f'{flag} is not for this source: leave it out ({layout.sentence})')
    return layout


def layout_of(request: Request, out: str) -> Layout:
    """The layout of a file, of a folder by what is in it, or of the files of a pattern.

    Raises:
      UserError, OSError: see `find`.
    """
    path = Path(request.source)
    if path.is_dir():
        return folder_layout(request, path, out)
    paths = tar_samples.expand_braces(request.source)
    suffix = path.suffix.lower()
    if suffix in ('.csv', '.tsv'):
        return text_layout(request, path)
    if suffix in ('.jsonl', '.json'):
        return json_layout(request, path)
    present = [p for p in paths if Path(p).exists()]
    if suffix == '.parquet' and present:
        return parquet_layout(request, present, tuple(p for p in paths if p not in present))
    return tars_layout(request, present, tuple(p for p in paths if p not in set(present)))


def tars_layout(request: Request, paths: list[str], missing: tuple[str, ...]) -> Layout:
    """Image-text tars; also files of unknown names, which the reader then counts as damaged."""
    for path in paths:
        check_regular(path)
        with open(path, 'rb'):
            pass
    if not paths:
        raise UserError(
            f'--source={request.source} matches no .tar file, table ({", ".join(TABLES)}) or folder: '
            'check the path and braces'
        )
    return Layout(
        f'Reads NAME.jpg with NAME.txt as caption of {len(paths)} tars',
        Reader('tar'),
        request.source,
        [Shard(path) for path in paths],
        missing,
    )


def folder_layout(request: Request, folder: Path, out: str) -> Layout:
    """A folder: of tars, with a metadata file, of parquet files, or of images."""
    if tars := tar_samples.tars_in(str(folder)):
        return tars_layout(request, tars, ())
    names = sorted(path.name for path in folder.iterdir())
    for name in METADATA:
        if name in names:
            nested = request._replace(source=str(folder / name))
            return layout_of(nested, out)
    tables_ = [str(folder / name) for name in names if name.endswith('.parquet')]
    if tables_:
        return parquet_layout(request, tables_, ())
    return images_layout(request, folder, out)


def images_layout(request: Request, folder: Path, out: str) -> Layout:
    """Images with text files beside them, or in folders of classes."""
    if request.template is not None:
        folders.check_template(request.template)
        sentence = (
            f'Reads images of {folder}, as caption the name of their folder in {request.template!r}'
        )
        rows = functools.partial(
            folders.class_rows, str(folder.absolute()), request.template, without=out
        )
    else:
        sentence = f'Reads images of {folder}, as captions the lines of NAME.txt beside NAME.jpg'
        rows = functools.partial(folders.text_file_rows, str(folder.absolute()), without=out)
    reader = Reader('list', str(folder.absolute()))
    return Layout(sentence, reader, str(folder), rows=rows, joins=False, takes=('--template',))


def listed(
    request: Request,
    path: Path,
    sentence: str,
    rows: Callable[[], Iterable[Row]],
    takes: tuple[str, ...] = IN_TABLES,
) -> Layout:
    """The layout of a table or JSON whose images are files of its folder or of --images."""
    folder = Path(request.images or path.parent).absolute()
    reader = Reader('list', str(folder), reroot=request.images is not None)
    sentence = f'{sentence}; images in {folder}'
    return Layout(sentence, reader, str(path), rows=rows, takes=takes)


def text_layout(request: Request, path: Path) -> Layout:
    """A CSV or TSV; a TSV of URLs and captions without a header as CC12M's."""
    keys = (request.image_key, request.caption_key)
    is_tsv = path.suffix.lower() == '.tsv'
    urls = f'Reads URLs and captions of {path}, a pair a row without a header'
    try:
        text, chosen = tables.open_text(path, *keys)
    except UserError:
        # Rows of captions alone are known by their numbers.
        if is_tsv and request.images and keys == (None, None):
            return url_layout(request, path, urls)
        raise
    first = next((r for r in tables.text_rows(path, text, chosen) if not r.defect), Row())
    if is_tsv and keys == (None, None) and len(text.names) == 2 and is_url(first.image or ''):
        if not request.images:
            raise UserError(
                f'{path} holds URLs, such as {first.image!r}: it needs --images=DIR, the folder of '
                'the downloaded images'
            )
        return url_layout(request, path, urls, header=text.header)
    rows = functools.partial(tables.text_rows, path, text, chosen)
    return listed(request, path, columns.sentence(chosen, str(path)), rows)


def url_layout(request: Request, path: Path, sentence: str, *, header: bool = False) -> Layout:
    """A TSV of URLs, whose images are found by row number or by file name."""
    assert request.images
    shards = url_rows.tsv_shards(path, header=header)
    sentence = sentence.replace(' without a header', '') if header else sentence
    return Layout(
        f'{sentence}; images in {request.images} by row number or file name',
        Reader('url', request.images),
        str(path),
        shards,
        takes=('--images',),
    )


def json_layout(request: Request, path: Path) -> Layout:
    """Lines of JSON, a list, COCO captions or Karpathy's splits."""
    check_regular(path)
    kind = 'lines' if path.suffix.lower() == '.jsonl' else annotations.kind_of(path)
    if kind in ('coco', 'karpathy'):
        splits = ' and '.join(annotations.TRAIN_SPLITS)
        sentence, rows = {
            'coco': (f'Reads COCO captions of {path}', annotations.coco_rows),
            'karpathy': (f'Reads the splits {splits} of {path}', annotations.karpathy_rows),
        }[kind]
        return listed(request, path, sentence, functools.partial(rows, path), ('--images',))
    read = tables.json_lines if kind == 'lines' else annotations.list_objects
    chosen = tables.object_columns(read(path), path, request.image_key, request.caption_key)
    return listed(
        request,
        path,
        columns.sentence(chosen, str(path)),
        lambda: tables.object_rows(read(path), chosen),
    )


def parquet_layout(request: Request, paths: list[str], missing: tuple[str, ...]) -> Layout:
    """Parquet files, with images in them or with paths of images."""
    chosen, embedded, total = parquet.inspect(paths, request.image_key, request.caption_key)
    where = tables.where([Path(p) for p in paths])
    sentence = columns.sentence(chosen, where)
    if not embedded:
        rows = functools.partial(parquet.path_rows, paths, chosen)
        return listed(request, Path(paths[0]), sentence, rows)._replace(missing=missing)
    folder = Path(request.images or Path(paths[0]).parent).absolute()
    reader = Reader('parquet', str(folder), request.images is not None, chosen)
    shards = parquet.shards_of(paths, total)
    return Layout(sentence, reader, where, shards, missing, takes=IN_TABLES)


def check_image_folder(folder: str) -> None:
    """Raises UserError if it is not a readable folder."""
    if not Path(folder).is_dir():
        raise UserError(f'--images={folder} is not a folder: give the folder of the images')
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise UserError(f'cannot read --images={folder}: {reason(error)}') from error
