"""Raw samples from image-text tar shards, or from a TSV beside a folder of images.

Nothing is written to disk, so the names of a tar's members can do no harm.
"""

import itertools
import os
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from input_pipeline import tars
from input_pipeline.images import IMAGE_SUFFIXES
from input_pipeline.tars import MAX_FILE_BYTES
from input_pipeline.validate import DropError
from pgs.errors import UserError
from pgs.utils.files import check_regular, reason

MAX_ROW_BYTES = 2**20  # of a TSV: URL and caption; bounds what is read of a file without lines
ROWS_A_SHARD = 10_000  # of a TSV, as in img2dataset's shards
KINDS = {'txt': 'caption'} | {suffix[1:]: 'image' for suffix in IMAGE_SUFFIXES}  # by suffix
OTHER = 'other'  # a member that is no part of a sample, such as a folder or a .json


class Shard(NamedTuple):
    """A unit of work: a tar, or consecutive rows of a TSV."""

    path: str
    offset: int = 0  # of the first row in the TSV, bytes
    first_row: int = 0  # counted from 0
    rows: int = 0


class RawSample(NamedTuple):
    """One sample before its content is checked; `members` of a tar, or rows, make it up."""

    key: str
    image: bytes | None = None  # encoded; None: missing
    caption: bytes | None = None  # None: missing
    defect: str | None = None  # a key of validate.REASONS, if already known
    members: int = 0


class Part(NamedTuple):
    """What a member of a tar is, by its header."""

    key: str  # of the sample
    kind: str  # 'image', 'caption', OTHER, or a key of validate.REASONS


class Seen:
    """Counts what is read of a shard, before and apart from the decision what to keep.

    Attributes:
      members: of a tar, or rows.
      samples: runs of images and captions with one key; each unusable member counts as one.
      ignored: members that are no part of a sample; counted where this is decided.
      end: bytes of the shard up to which all members are complete.
      cut: why the rest of the shard cannot be read; '': all of it was read.
    """

    def __init__(self) -> None:
        self.members = self.samples = self.ignored = self.end = 0
        self.cut = ''
        self._last: str | None = None  # key of the sample that the next member may belong to

    def add(self, part: Part, start: int) -> None:
        """Counts a member whose header begins at byte `start`."""
        self.members, self.end = self.members + 1, start
        if part.kind == OTHER:
            return
        is_part = part.kind in KINDS.values()
        if not is_part or part.key != self._last:
            self.samples += 1
        self._last = part.key if is_part else None

    def add_cut(self, why: str) -> None:
        """Counts the damage at which reading ends: as the sample that it hits, or as one."""
        self.cut = why
        self.samples += self._last is None


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
        present = [p for p in paths if Path(p).exists()]
        for path in present:
            check_regular(path)
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


def tar_samples(shard: Shard, seen: Seen | None = None) -> Iterator[RawSample]:
    """Streams the samples of a tar; consecutive members with the same key are one sample.

    The key is the member's path up to the first dot of its file name. A member that is not a
    regular file or has an unsafe name is yielded as a sample with that defect; so is the end of a
    damaged tar.

    Args:
      shard: what to read.
      seen: counts all members, whatever becomes of them.
    """
    seen = seen or Seen()
    key: str | None = None
    parts: dict[str, Any] = {}  # 'image' and 'caption': bytes; 'defect': a key of REASONS
    members = 0  # of this sample
    keys: set[str] = set()

    def finish() -> Iterator[RawSample]:
        if key is not None:
            again = key in keys
            keys.add(key)
            defect = 'duplicate_key' if again else parts.get('defect')
            yield RawSample(key, parts.get('image'), parts.get('caption'), defect, members)

    try:
        for archive, member in tars.stream(Path(shard.path)):
            part = part_of(member)
            seen.add(part, member.offset)
            if part.kind == OTHER:
                seen.ignored += 1
                continue
            defect = part.kind not in KINDS.values()
            if defect or part.key != key:
                yield from finish()
                key, parts, members = None, {}, 0
            if defect:
                yield RawSample(member.name, defect=part.kind, members=1)
                continue
            key, members = part.key, members + 1
            add_part(parts, part.kind, member, archive)
        yield from finish()
    except (tarfile.TarError, OSError) as error:
        # The samples before this one are complete.
        seen.add_cut(str(error))
        yield RawSample(
            key or f'after {len(keys)} samples ({error})', defect='shard_cut', members=members
        )


def part_of(member: tarfile.TarInfo) -> Part:
    """What a member is, by its name and type."""
    if member.isdir():
        return Part('', OTHER)
    if defect := member_defect(member):
        return Part(member.name, defect)
    name = PurePosixPath(member.name)
    stem, _, suffix = name.name.partition('.')
    return Part(str(name.parent / stem), KINDS.get(suffix.lower(), OTHER))


def add_part(
    parts: dict[str, Any], kind: str, member: tarfile.TarInfo, archive: tarfile.TarFile
) -> None:
    """Stores a member's bytes as 'image' or 'caption'; a second one of a kind is a duplicate."""
    if kind in parts:
        parts['defect'] = 'duplicate_key'
    elif member.size > MAX_FILE_BYTES:
        parts['defect'] = 'image_too_large' if kind == 'image' else 'caption_too_long'
    else:
        parts[kind] = tars.content(archive, member)


def member_defect(member: tarfile.TarInfo) -> str | None:
    """'unsafe_name', 'not_a_file' or None."""
    name = member.name
    if name.startswith(('/', '\\')) or '..' in PurePosixPath(name).parts or not is_utf8(name):
        return 'unsafe_name'
    return None if tars.is_file(member) else 'not_a_file'


def is_utf8(name: str) -> bool:
    """Whether a name was UTF-8 in the tar; tarfile replaces other bytes by surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def rows_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields (row, length) of each line of a TSV; of a longer row only MAX_ROW_BYTES."""
    while row := file.readline(MAX_ROW_BYTES):
        length, piece = len(row), row
        while len(piece) == MAX_ROW_BYTES and not piece.endswith(b'\n'):
            piece = file.readline(MAX_ROW_BYTES)
            length += len(piece)
        yield row, length


def tsv_shards(path: Path) -> list[Shard]:
    """Divides a TSV of (caption, url) or (url, caption) rows into shards, in one pass over it.

    Raises:
      UserError: no rows.
      OSError: a file that cannot be read.
    """
    check_regular(path)
    shards: list[Shard] = []
    offset = 0
    with path.open('rb') as file:
        for row, (_, length) in enumerate(rows_of(file)):
            if row % ROWS_A_SHARD == 0:
                shards.append(Shard(str(path), offset, row, 0))
            shards[-1] = shards[-1]._replace(rows=shards[-1].rows + 1)
            offset += length
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
        path = self._by_name.get(f'{row:09}') or self._by_name.get(file_name(url))
        if path is None or path.is_symlink():
            return None
        if not path.is_file():  # opening a pipe would wait for ever
            raise DropError('not_a_file')
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DropError('image_too_large')
        return path.read_bytes()


def file_name(url: str) -> str:
    """The last part of a URL's path; '' for a text that is no URL."""
    try:
        path = urllib.parse.urlsplit(url).path
    except ValueError:
        return ''
    return urllib.parse.unquote(PurePosixPath(path).name)


def tsv_samples(shard: Shard, images: ImageFolder, seen: Seen | None = None) -> Iterator[RawSample]:
    """Streams the rows of a shard of a TSV; the column with '://' near its start is the URL.

    Args:
      shard: what to read.
      images: the folder beside the TSV.
      seen: counts all rows, whatever becomes of them.
    """
    seen = seen or Seen()
    with open(shard.path, 'rb') as file:
        file.seek(shard.offset)
        rows = itertools.islice(rows_of(file), shard.rows)
        for row, (line, length) in enumerate(rows, shard.first_row):
            seen.members += 1
            seen.samples += 1
            yield row_sample(row, line, length, images)


def row_sample(row: int, line: bytes, length: int, images: ImageFolder) -> RawSample:
    """The sample of a row of a TSV.

    Args:
      row: counted from 0.
      line: the row, or its first MAX_ROW_BYTES.
      length: of the complete row.
      images: the folder beside the TSV.
    """
    key = f'{row:09}'
    if length > MAX_ROW_BYTES:
        return RawSample(key, defect='caption_too_long', members=1)
    columns = line.rstrip(b'\r\n').split(b'\t')
    urls = [c for c in columns if b'://' in c[:10]]
    captions = [c for c in columns if b'://' not in c[:10]]
    try:
        image = images.read(row, urls[0].decode('utf-8', 'replace') if urls else '')
    except DropError as drop:
        return RawSample(key, defect=drop.args[0], members=1)
    return RawSample(key, image, captions[0] if captions else None, members=1)
