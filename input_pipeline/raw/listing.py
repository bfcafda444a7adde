"""The list of a source's images: one line of JSON for each, with its captions, in the prepared folder.

Rows that name one image are joined, in any order, by a temporary database on disk; memory stays
small. Workers read their part of the list, and then the image files.
"""

import contextlib
import hashlib
import itertools
import json
import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from input_pipeline.raw.image_files import ImageFiles, is_absolute, is_url
from input_pipeline.raw.samples import (
    SMALLEST_SHARD,
    RawSample,
    Row,
    Seen,
    Shard,
    rows_a_shard,
)
from input_pipeline.validate import DropError
from pgs.errors import UserError

NAME = 'list.jsonl'
MAX_TEXT = 2**20  # characters of the captions of one line; more become further lines
LOOKED_AT = 100  # images that are looked for before the work starts
CACHE_KB = 65_536  # memory of the database


class Entry(NamedTuple):
    """A line of the list: an image, or a row that is none."""

    key: str
    image: str | None
    captions: tuple[str, ...]
    text_file: str | None
    defect: str | None
    rows: int  # of the source


class Listing(NamedTuple):
    """What a list holds, in numbers."""

    shards: list[Shard]
    entries: int
    rows: int  # of the source
    captioned: int  # entries with a caption or a text file
    digest: str  # of the whole list


def write(entries: Iterable[Entry], path: Path) -> Listing:
    """Writes a list, and divides it into shards.

    Raises:
      OSError: a list that cannot be written.
    """
    marks: list[int] = []  # where each SMALLEST_SHARD of entries begins, bytes
    digest = hashlib.sha256()
    count = rows = captioned = offset = 0
    with path.open('wb') as file:
        for entry in entries:
            if count % SMALLEST_SHARD == 0:
                marks.append(offset)
            line = f'{json.dumps(entry)}\n'.encode()
            file.write(line)
            digest.update(line)
            offset += len(line)
            count, rows = count + 1, rows + entry.rows
            captioned += bool(entry.captions or entry.text_file)
    size = rows_a_shard(count)
    shards = [
        Shard(str(path), mark, first, min(size, count - first))
        for mark, first in zip(marks[:: size // SMALLEST_SHARD], range(0, count, size), strict=True)
    ]
    return Listing(shards, count, rows, captioned, digest.hexdigest())


def entries_of(rows: Iterable[Row]) -> Iterator[Entry]:
    """An entry for each row, for sources that name no image twice."""
    for number, row in enumerate(rows, 1):
        key = row.image or row.text_file or f'row {number}'
        yield Entry(key, row.image, row.captions, row.text_file, row.defect, 1)


def joined(rows: Iterable[Row], database: Path) -> Iterator[Entry]:
    """An entry for each image, in the order of their first rows; captions in the order of theirs.

    A row with a defect, or without an identity, is an entry of its own.

    Args:
      rows: of a table or a JSON.
      database: file that is created, and removed at the end.

    Raises:
      UserError: a disk that is full.
    """
    database.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.executescript(SCHEMA)
            connection.execute('BEGIN')
            for number, row in enumerate(rows, 1):
                add(connection, number, row)
            yield from grouped(connection.execute(JOIN))
    except sqlite3.Error as error:
        raise UserError(
            f'cannot write {database} ({error}): make room on that disk, then run the command again'
        ) from error
    finally:
        database.unlink(missing_ok=True)


SCHEMA = f"""
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KB};
CREATE TABLE images (id INTEGER PRIMARY KEY, identity TEXT UNIQUE, name TEXT, defect TEXT, row INTEGER);
CREATE TABLE captions (image INTEGER, row INTEGER, texts TEXT, PRIMARY KEY (image, row)) WITHOUT ROWID;
"""
ADD = 'INSERT OR IGNORE INTO images (identity, name, defect, row) VALUES (?, ?, ?, ?)'
# Both tables are read in the order in which they are stored.
JOIN = """
SELECT images.id, images.row, name, defect, texts FROM images LEFT JOIN captions ON image = images.id
ORDER BY images.id, captions.row
"""


def add(connection: sqlite3.Connection, number: int, row: Row) -> None:
    """Stores row `number`."""
    name = row.image
    if name and not is_url(name):
        name = posixpath.normpath(name)  # ./a.jpg is a.jpg
    identity = None if row.defect else row.identity or name
    added = connection.execute(ADD, (identity, name, row.defect, number))
    image = added.lastrowid
    if not added.rowcount:  # another row of a known image
        found = 'SELECT id, name FROM images WHERE identity = ?'
        image, known = connection.execute(found, (identity,)).fetchone()
        if known is None:
            connection.execute('UPDATE images SET name = ? WHERE id = ?', (name, image))
        elif name is not None and name != known:  # two files under one number
            add(connection, number, Row(row.image, defect='duplicate_key'))
            return
    texts = json.dumps(row.captions)
    connection.execute('INSERT INTO captions VALUES (?, ?, ?)', (image, number, texts))


def grouped(found: Iterable[tuple[int, int, str | None, str | None, str]]) -> Iterator[Entry]:
    """Joins the stored rows of each image; an image with very many captions becomes several."""
    for _, rows in itertools.groupby(found, key=lambda row: row[0]):
        captions: list[str] = []
        count, size, key = 0, 0, ''
        for _, number, name, defect, texts in rows:
            if count and size + len(texts) > MAX_TEXT:
                yield Entry(key, name, tuple(captions), None, defect, count)
                captions, count, size = [], 0, 0
            if not count:
                key = name or f'row {number}'
            captions += json.loads(texts)
            count, size = count + 1, size + len(texts)
        yield Entry(key, name, tuple(captions), None, defect, count)


def read(shard: Shard) -> Iterator[Entry]:
    """The entries of a shard."""
    with open(shard.path, 'rb') as file:
        file.seek(shard.offset)
        for line in itertools.islice(file, shard.rows):
            key, image, captions, text_file, defect, rows = json.loads(line)
            yield Entry(key, image, tuple(captions), text_file, defect, rows)


def samples(shard: Shard, files: ImageFiles, seen: Seen | None = None) -> Iterator[RawSample]:
    """Streams the samples of a shard of a list.

    Args:
      shard: what to read.
      files: the images, and the text files beside them.
      seen: counts all entries, whatever becomes of them.
    """
    seen = seen or Seen()
    for entry in read(shard):
        seen.add_row(members=entry.rows)
        yield sample_of(entry, files)


def sample_of(entry: Entry, files: ImageFiles) -> RawSample:
    """The sample of an entry, with the bytes of its files."""
    if entry.defect:
        return RawSample(entry.key, defect=entry.defect, members=entry.rows)
    captions = tuple(text.encode() for text in entry.captions)
    try:
        image = files.read(entry.image) if entry.image else None
        if entry.text_file:
            captions = files.read_captions(entry.text_file)
    except DropError as drop:
        return RawSample(entry.key, defect=drop.args[0], members=entry.rows)
    return RawSample(entry.key, image, captions, members=entry.rows)


def check_first(listing: Listing, files: ImageFiles, where: str, unlabelled: str) -> None:
    """Stops a preparation that would keep nothing, before its work starts.

    Args:
      listing: of the source.
      files: where its images are.
      where: the source, for messages.
      unlabelled: what to do if no image has a caption.

    Raises:
      UserError: no rows, no captions, or none of the first images is found.
    """
    if not listing.entries:
        raise UserError(f'{where} has no images')
    named = (entry for entry in read(listing.shards[0]) if entry.image and not entry.defect)
    failed: list[tuple[str, str]] = []
    for entry in itertools.islice(named, LOOKED_AT):
        try:
            files.find(entry.image or '')
            failed.clear()
            break
        except DropError as drop:
            failed.append((entry.image or '', drop.args[0]))
    if failed:
        raise UserError(explain(*failed[0], len(failed), files, where))
    if not listing.captioned:
        raise UserError(f'{where} has no captions: {unlabelled}')


def explain(name: str, defect: str, count: int, files: ImageFiles, where: str) -> str:
    """Why the first images are not found, and what to do."""
    if is_url(name) and not files.reroot:
        return (
            f'{where} holds URLs where files are expected, such as {name[:200]!r}: download them, '
            'for example with img2dataset, and give --images=DIR, the folder of the files'
        )
    if is_absolute(name) and not files.reroot:
        return (
            f'{where} holds absolute paths outside of {files.folder}, such as {name[:200]!r}: give '
            '--images=DIR, the folder that has the images here; the ends of the paths are looked '
            'for in it'
        )
    if defect == 'unsafe_name':
        return (
            f'{where} holds paths that leave {files.folder}, such as {name[:200]!r}: give '
            '--images=DIR, the folder of the images'
        )
    flag = 'another --images=DIR' if files.reroot else '--images=DIR, the folder of the images'
    return (
        f'none of the first {count} images of {where} is in {files.folder}, such as '
        f'{name[:200]!r} ({defect}): give {flag}'
    )
