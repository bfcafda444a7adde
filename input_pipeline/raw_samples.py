"""Raw samples from image-text tar shards, or from a TSV beside a folder of images.

Nothing is written to disk, so the names of a tar's members can do no harm.
"""

import os
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from input_pipeline import tars
from input_pipeline.images import IMAGE_SUFFIXES
from input_pipeline.validate import DropError
from pgs.errors import UserError
from pgs.utils.files import reason

MAX_FILE_BYTES = 256 * 1024**2  # of one file; bounds the memory of a worker
ROWS_A_SHARD = 10_000  # of a TSV, as in img2dataset's shards


class Shard(NamedTuple):
    """A unit of work: a tar, or consecutive rows of a TSV."""

    path: str
    offset: int = 0  # of the first row in the TSV, bytes
    first_row: int = 0  # counted from 0
    rows: int = 0


class RawSample(NamedTuple):
    """One sample before its content is checked."""

    key: str
    image: bytes | None = None  # encoded; None: missing
    caption: bytes | None = None  # None: missing
    defect: str | None = None  # a key of validate.REASONS, if already known


def expand_braces(pattern: str) -> list[str]:
    """'a/{000..002}.tar' -> three paths; a pattern without braces -> that path.

    Raises:
      UserError: braces that are not {FIRST..LAST} with numbers.
    """
    match = re.search(r'\{([^{}]*)\}', pattern)
    if not match:
        return [pattern]
    bounds = re.fullmatch(r'(\d+)\.\.(\d+)', match[1])
    if not bounds or int(bounds[1]) > int(bounds[2]):
        raise UserError(f'{{{match[1]}}} in {pattern!r} is not a range: write {{00000..01242}}')
    width = len(bounds[1])
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [
        expanded
        for number in range(int(bounds[1]), int(bounds[2]) + 1)
        for expanded in expand_braces(f'{head}{number:0{width}}{tail}')
    ]


def find_shards(source: str) -> tuple[list[Shard], list[str]]:
    """Lists the shards of a source.

    Args:
      source: tar pattern with braces, folder of tars, or a .tsv file.

    Returns:
      (shards, paths that the pattern names but that do not exist).

    Raises:
      UserError: no shard exists, or a folder or file cannot be read.
    """
    try:
        if source.endswith('.tsv'):
            return tsv_shards(Path(source)), []
        if Path(source).is_dir():
            paths = sorted(str(p) for p in Path(source).iterdir() if p.suffix == '.tar')
        else:
            paths = expand_braces(source)
        present = [p for p in paths if Path(p).is_file()]
        for path in present:
            with open(path, 'rb'):
                pass
    except OSError as error:
        raise UserError(
            f'cannot read --source={source}: {reason(error)}: {error.filename}'
        ) from error
    if not present:
        raise UserError(
            f'--source={source} matches no .tar or .tsv file: check the path and braces'
        )
    return [Shard(p) for p in present], [p for p in paths if p not in set(present)]


def tar_samples(shard: Shard) -> Iterator[RawSample]:
    """Streams the samples of a tar; consecutive members with the same key are one sample.

    The key is the member's path up to the first dot of its file name. A member that is not a
    regular file or has an unsafe name is yielded as a sample with that defect; so is the end of a
    damaged tar.
    """
    key: str | None = None
    parts: dict[str, Any] = {}  # 'image' and 'caption': bytes; 'defect': a key of REASONS
    seen: set[str] = set()

    def finish() -> Iterator[RawSample]:
        if key is not None:
            again = key in seen
            seen.add(key)
            defect = 'duplicate_key' if again else parts.get('defect')
            yield RawSample(key, parts.get('image'), parts.get('caption'), defect)

    try:
        for archive, member in tars.stream(Path(shard.path)):
            if member.isdir():
                continue
            defect = member_defect(member)
            name = PurePosixPath(member.name)
            stem, _, suffix = name.name.partition('.')
            member_key = str(name.parent / stem)
            if defect is None and f'.{suffix.lower()}' not in (*IMAGE_SUFFIXES, '.txt'):
                continue  # .json and other files of the sample
            if defect or member_key != key:
                yield from finish()
                key, parts = None, {}
            if defect:
                yield RawSample(member.name, defect=defect)
                continue
            key = member_key
            add_part(parts, suffix.lower(), member, archive)
        yield from finish()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        # The samples before this one are complete.
        yield RawSample(key or f'after {len(seen)} samples ({error})', defect='shard_cut')


def add_part(
    parts: dict[str, Any], suffix: str, member: tarfile.TarInfo, archive: tarfile.TarFile
) -> None:
    """Stores a member's bytes as 'image' or 'caption'; a second one of a kind is a duplicate."""
    kind = 'caption' if suffix == 'txt' else 'image'
    if kind in parts:
        parts['defect'] = 'duplicate_key'
    elif member.size > MAX_FILE_BYTES:
        parts['defect'] = 'image_too_large' if kind == 'image' else 'caption_too_long'
    else:
        content = cast(IO[bytes], archive.extractfile(member)).read()
        if len(content) != member.size:
            raise EOFError('the tar ends within a file')
        parts[kind] = content


def member_defect(member: tarfile.TarInfo) -> str | None:
    """'unsafe_name', 'not_a_file' or None."""
    if member.name.startswith(('/', '\\')) or '..' in PurePosixPath(member.name).parts:
        return 'unsafe_name'
    return None if member.isreg() else 'not_a_file'


def tsv_shards(path: Path) -> list[Shard]:
    """Divides a TSV of (caption, url) or (url, caption) rows into shards, in one pass over it.

    Raises:
      UserError: no rows.
      OSError: a file that cannot be read.
    """
    shards: list[Shard] = []
    offset, row = 0, 0
    with path.open('rb') as file:
        for line in file:
            if row % ROWS_A_SHARD == 0:
                shards.append(Shard(str(path), offset, row, 0))
            shards[-1] = shards[-1]._replace(rows=shards[-1].rows + 1)
            offset += len(line)
            row += 1
    if not shards:
        raise UserError(f'--source={path} has no rows: each is a URL, a tab and a caption')
    return shards


def check_image_folder(folder: str) -> None:
    """Raises UserError if it is not a readable folder; cheap, unlike the scan of `ImageFolder`."""
    if not Path(folder).is_dir():
        raise UserError(f'--images={folder} is not a folder: give the folder of the images')
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise UserError(f'cannot read --images={folder}: {reason(error)}') from error


class ImageFolder:
    """Finds the image of a TSV's row, by the row's number or by the file name in its URL.

    Row 12 is 000000012.jpg, as img2dataset names files. The URL's file name is used if there is no
    such file, for a folder of downloads that kept their names.
    """

    def __init__(self, folder: str):
        self._by_name: dict[str, Path] = {}
        for path in sorted(Path(folder).rglob('*')):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_name.setdefault(path.name, path)
                self._by_name.setdefault(path.stem, path)

    def read(self, row: int, url: str) -> bytes | None:
        """The bytes of a row's image; None if the folder does not have it.

        Raises:
          DropError: a file that is too large.
        """
        name = urllib.parse.unquote(PurePosixPath(urllib.parse.urlsplit(url).path).name)
        path = self._by_name.get(f'{row:09}') or self._by_name.get(name)
        if path is None or path.is_symlink():
            return None
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DropError('image_too_large')
        return path.read_bytes()


def tsv_samples(shard: Shard, images: ImageFolder) -> Iterator[RawSample]:
    """Streams the rows of a shard of a TSV; the column with '://' near its start is the URL."""
    with open(shard.path, 'rb') as file:
        file.seek(shard.offset)
        for row in range(shard.first_row, shard.first_row + shard.rows):
            columns = file.readline().rstrip(b'\r\n').split(b'\t')
            urls = [c for c in columns if b'://' in c[:10]]
            captions = [c for c in columns if b'://' not in c[:10]]
            key = f'{row:09}'
            try:
                url = urls[0].decode('utf-8', 'replace') if urls else ''
                image = images.read(row, url)
            except DropError as drop:
                yield RawSample(key, defect=drop.args[0])
            else:
                yield RawSample(key, image, captions[0] if captions else None)
