"""Parquet tables: images as bytes, as Hugging Face stores them, or as paths.

The library is imported only where a parquet file is opened.
"""

import bisect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from input_pipeline.raw import columns, tables
from input_pipeline.raw.columns import Columns
from input_pipeline.raw.image_files import ImageFiles
from input_pipeline.raw.lines import is_utf8
from input_pipeline.raw.samples import RawSample, Row, Seen, Shard, rows_a_shard
from input_pipeline.tars import MAX_FILE_BYTES
from input_pipeline.validate import DropError
from pgs.errors import UserError
from pgs.utils.files import check_regular

if TYPE_CHECKING:
    import pyarrow.parquet

BATCH = 16  # rows that are decoded at once
BUFFER_BYTES = 2**20  # read at once of each column


def damages() -> tuple[type[Exception], ...]:
    """What the library raises for a file that cannot be read or is damaged."""
    import pyarrow as pa

    return OSError, pa.ArrowException, UnicodeDecodeError


def open_file(path: str) -> 'pyarrow.parquet.ParquetFile':
    """A parquet file, of which only the end is read so far.

    Raises:
      OSError and the errors of `damages`.
    """
    import pyarrow.parquet

    check_regular(path)
    # Without pre_buffer: otherwise whole columns of a row group are in memory.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)


def inspect(
    paths: list[str], image_key: str | None, caption_key: str | None
) -> tuple[Columns, bool, int]:
    """The columns of parquet files, whether they hold images (not paths), and the number of rows.

    Raises:
      UserError: a file that cannot be read, or without these columns, or with other types in them.
    """
    found, total = [], 0
    for path in paths:
        try:
            file = open_file(path)
            schema, metadata, rows = file.schema_arrow, file.metadata, file.metadata.num_rows
            groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        except damages() as error:
            raise UserError(f'cannot read {path}: {one_line(error)}') from error
        names = [name if is_utf8(name) else '?' for name in schema.names]
        chosen = columns.choose(names, path, image_key, caption_key)
        for name in chosen:
            if names.count(name) > 1:
                raise UserError(f'{path} has {names.count(name)} columns {name!r}')
        kind = kind_of(schema.field(names.index(chosen.image)).type)
        if kind is None:
            shown = schema.field(names.index(chosen.image)).type
            raise UserError(
                f'{path}: column {chosen.image!r} is of type {shown}: images are bytes, '
                "{'bytes', 'path'} or paths; name another column by --image_key"
            )
        if not 0 <= rows <= os.path.getsize(path):
            raise UserError(f'{path} claims {rows} rows, more than it has bytes: it is damaged')
        if sum(groups) != rows or min(groups, default=0) < 0:
            raise UserError(
                f'{path} claims {rows} rows, and {sum(groups)} in its row groups: it is damaged'
            )
        found.append((chosen, kind == 'bytes'))
        total += rows
    if len(set(found)) > 1:
        raise UserError(f'{paths[0]} and the others differ in their columns: prepare them apart')
    if not total:
        raise UserError(f'{tables.where([Path(p) for p in paths])} has no rows')
    return *found[0], total


def kind_of(type_: Any) -> str | None:
    """'bytes' for images, 'path' for text; None for other types."""
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_struct(type_):
        return 'bytes' if type_.get_field_index('bytes') >= 0 else None
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return 'bytes'
    return 'path' if pa.types.is_string(type_) or pa.types.is_large_string(type_) else None


def shards_of(paths: list[str], total: int) -> list[Shard]:
    """Divides files into shards of whole row groups; a large group becomes several shards.

    Args:
      paths: of the files.
      total: rows of all of them.
    """
    size = rows_a_shard(total)
    shards: list[Shard] = []
    for path in paths:
        metadata = open_file(path).metadata
        row, open_shard = 0, False
        for group in range(metadata.num_row_groups):
            left = metadata.row_group(group).num_rows
            if open_shard and shards[-1].rows + left <= size:
                shards[-1] = shards[-1]._replace(rows=shards[-1].rows + left)
                row += left
                continue
            while left:
                rows = min(size, left)
                shards.append(Shard(path, group, row, rows))
                row, left, open_shard = row + rows, left - rows, True
    return shards


def batches_of(shard: Shard, chosen: Columns) -> Iterator[Any]:
    """The batches (pyarrow.RecordBatch) of a shard's rows, of two columns.

    Raises:
      OSError and the errors of `damages`, after the intact rows.
    """
    with open_file(shard.path) as file:
        metadata = file.metadata
        lengths = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        ends = list(itertools.accumulate(lengths))
        skip, left = shard.first_row - sum(lengths[: shard.offset]), shard.rows
        last = bisect.bisect_left(ends, shard.first_row + shard.rows)
        groups = list(range(shard.offset, min(last + 1, len(lengths))))
        batches = file.iter_batches(BATCH, groups, list(chosen), use_threads=False)
        for batch in batches:
            rows = batch.slice(skip, left) if skip < batch.num_rows else batch.slice(0, 0)
            skip = max(skip - batch.num_rows, 0)
            left -= rows.num_rows
            if rows.num_rows:
                yield rows
            if left <= 0:
                return
    if left > 0:
        raise OSError(f'{left} of the rows that its header counts are not in it')


def samples(
    shard: Shard, chosen: Columns, files: ImageFiles, seen: Seen | None = None
) -> Iterator[RawSample]:
    """Streams the samples of a shard; consecutive rows with the same image bytes are one sample.

    Args:
      shard: what to read.
      chosen: its columns.
      files: for rows with a path in place of bytes.
      seen: counts all rows, whatever becomes of them.
    """
    seen = seen or Seen()
    held: RawSample | None = None
    row = seen.end = shard.first_row
    try:
        for batch in batches_of(shard, chosen):
            for i in range(batch.num_rows):
                sample = sample_of(batch, i, f'{Path(shard.path).stem}-{row:09}', chosen, files)
                row += 1
                same = held is not None and bool(held.image) and held.image == sample.image
                seen.add_row(starts=not same)
                if held is not None and same:
                    held = held._replace(
                        captions=held.captions + sample.captions, members=held.members + 1
                    )
                    continue
                if held is not None:
                    yield held
                held = sample
            seen.end = row
        if held is not None:
            yield held
    except damages() as error:
        if held is not None:
            yield held
        seen.add_cut(one_line(error))
        yield RawSample(f'after row {row} ({one_line(error)[:200]})', defect='shard_cut')


def sample_of(batch: Any, i: int, key: str, chosen: Columns, files: ImageFiles) -> RawSample:
    """The sample of row i of a batch; `key` is used where the row has no path."""
    image, path = batch.column(chosen.image), None
    try:
        if hasattr(image, 'field') and image[i].is_valid:  # {'bytes', 'path'}
            if image.type.get_field_index('path') >= 0:
                path = image.field('path')[i].as_py() or None
            image = image.field('bytes')
        content = bytes_at(image, i)
        if isinstance(path, str):
            key = path
            if content is None:
                content = files.read(path)
        texts = tables.row_of(None, batch.column(chosen.caption)[i].as_py())
    except DropError as drop:
        return RawSample(key, defect=drop.args[0], members=1)
    except UnicodeDecodeError:
        return RawSample(key, defect='caption_not_utf8', members=1)
    if texts.defect:
        return RawSample(key, defect=texts.defect, members=1)
    return RawSample(key, content, tuple(text.encode() for text in texts.captions), members=1)


def bytes_at(column: Any, i: int) -> bytes | None:
    """The bytes of a cell.

    Raises:
      DropError: too many.
    """
    cell = column[i]
    if not cell.is_valid:
        return None
    if hasattr(cell, 'as_buffer') and cell.as_buffer().size > MAX_FILE_BYTES:
        raise DropError('image_too_large')
    return cell.as_py()


def path_rows(paths: list[str], chosen: Columns) -> Iterator[Row]:
    """The rows of files whose images are paths.

    Raises:
      UserError: a damaged file.
    """
    for path in paths:
        try:
            rows = open_file(path).metadata.num_rows
            for batch in batches_of(Shard(path, rows=rows), chosen):
                for i in range(batch.num_rows):
                    try:
                        cells = [batch.column(name)[i].as_py() for name in chosen]
                    except UnicodeDecodeError:
                        yield Row(defect='caption_not_utf8')
                        continue
                    yield tables.row_of(*cells)
        except damages() as error:
            raise UserError(f'cannot read {path}: {one_line(error)}') from error


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return ' '.join(str(error).split()) or type(error).__name__
