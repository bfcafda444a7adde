"""Raw samples from image-text tar shards, or from a TSV beside a folder of images.

Nothing here is ever written to disk, whatever a member of a tar is called.
"""

import os
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from input_pipeline.validate import DropError
from pgs.errors import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff')
MAX_FILE_BYTES = 256 * 1024**2  # of one member: a worker's memory is bounded
ROWS_A_SHARD = 10_000  # of a TSV, as img2dataset's shards


class Shard(NamedTuple):
    """A unit of work: a tar, or the rows of a TSV from a byte offset on."""

    path: str
    offset: int = 0
    first_row: int = 0
    rows: int = 0


class RawSample(NamedTuple):
    """One sample as found; a part that is absent is None. `defect` names what is wrong already."""

    key: str
    image: bytes | None = None
    caption: bytes | None = None
    defect: str | None = None


def expand_braces(pattern: str) -> list[str]:
    """'a/{000..002}.tar' -> three paths; a pattern without braces is itself.

    Raises:
      UserError: braces that are not {FIRST..LAST} with numbers.
    """
    match = re.search(r'\{([^{}]*)\}', pattern)
    if not match:
        return [pattern]
    bounds = re.fullmatch(r'(\d+)\.\.(\d+)', match[1])
    if not bounds or int(bounds[1]) > int(bounds[2]):
        raise UserError(f'{{{match[1]}}} in {pattern!r} is no range: write {{00000..01242}}')
    width = len(bounds[1])
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [
        expanded
        for number in range(int(bounds[1]), int(bounds[2]) + 1)
        for expanded in expand_braces(f'{head}{number:0{width}}{tail}')
    ]


def find_shards(source: str) -> tuple[list[Shard], list[str]]:
    """The shards of a source, and the paths that it names and that are not there.

    Args:
      source: tar pattern with braces, folder of tars, or a .tsv file.

    Raises:
      UserError: nothing is there, or a folder or file that cannot be read.
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
            f'cannot read --source={source}: {error.strerror}: {error.filename}'
        ) from error
    if not present:
        raise UserError(
            f'--source={source} matches no .tar or .tsv file: check the path and braces'
        )
    return [Shard(p) for p in present], [p for p in paths if p not in set(present)]


def tar_samples(shard: Shard) -> Iterator[RawSample]:
    """Streams the samples of a tar; members that follow one another under one key are a sample.

    A key is a name up to the first dot of its last part. Each member that is no regular file, and
    each unsafe name, is a sample of its own with that defect; so is the end of a damaged tar.
    """
    key, parts, seen = None, {}, set()

    def finish() -> Iterator[RawSample]:
        if key is not None:
            again = key in seen
            seen.add(key)
            defect = 'duplicate_key' if again else parts.get('defect')
            yield RawSample(key, parts.get('image'), parts.get('caption'), defect)

    try:
        with open(shard.path, 'rb') as file, tarfile.open(fileobj=file, mode='r|') as tar:
            for member in tar:
                tar.members.clear()  # tarfile would keep every header
                if member.isdir():
                    continue
                defect = member_defect(member)
                name = PurePosixPath(member.name)
                stem, _, suffix = name.name.partition('.')
                member_key = str(name.parent / stem)
                if defect is None and f'.{suffix.lower()}' not in (*IMAGE_SUFFIXES, '.txt'):
                    continue  # .json and whatever else stands beside a pair
                if defect or member_key != key:
                    yield from finish()
                    key, parts = None, {}
                if defect:
                    yield RawSample(member.name, defect=defect)
                    continue
                key = member_key
                add_part(parts, suffix.lower(), member, tar)
            # tarfile takes a cut between two members, and a damaged header, for the end
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError('the end mark is missing')
            yield from finish()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        # What came before is whole; the sample that the tar breaks off in is not.
        yield RawSample(key or f'after {len(seen)} samples ({error})', defect='shard_cut')


def add_part(parts: dict, suffix: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    """Puts a member's bytes under 'image' or 'caption'; a second of its kind is a duplicate."""
    kind = 'caption' if suffix == 'txt' else 'image'
    if kind in parts:
        parts['defect'] = 'duplicate_key'
    elif member.size > MAX_FILE_BYTES:
        parts['defect'] = 'image_too_large' if kind == 'image' else 'caption_too_long'
    else:
        content = tar.extractfile(member).read()
        if len(content) != member.size:
            raise EOFError('the tar ends within a file')
        parts[kind] = content


def member_defect(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith(('/', '\\')) or '..' in PurePosixPath(member.name).parts:
        return 'unsafe_name'
    return None if member.isreg() else 'not_a_file'


def tsv_shards(path: Path) -> list[Shard]:
    """Cuts a TSV of (caption, url) or (url, caption) rows into shards by one scan for line ends."""
    shards, offset, row = [], 0, 0
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
    """Raises UserError for what is no readable folder, without the scan that `ImageFolder` makes."""
    if not Path(folder).is_dir():
        raise UserError(f'--images={folder} is no folder: give the folder of the images')
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise UserError(f'cannot read --images={folder}: {error.strerror}') from error


class ImageFolder:
    """Finds the image of a TSV's row: by the URL's file name, or by the row's number.

    Row 12 is 000000012.jpg, as img2dataset names files. The URL's own name is taken where one row
    alone can mean it, which a folder of downloads under their own names gives.
    """

    def __init__(self, folder: str):
        self._by_name: dict[str, Path] = {}
        for path in sorted(Path(folder).rglob('*')):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_name.setdefault(path.name, path)
                self._by_name.setdefault(path.stem, path)

    def read(self, row: int, url: str) -> bytes | None:
        """The image's bytes, None where the folder lacks it."""
        name = urllib.parse.unquote(PurePosixPath(urllib.parse.urlsplit(url).path).name)
        path = self._by_name.get(f'{row:09}') or self._by_name.get(name)
        if path is None or path.is_symlink():
            return None
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DropError('image_too_large')
        return path.read_bytes()


def tsv_samples(shard: Shard, images: ImageFolder) -> Iterator[RawSample]:
    """Streams the rows of a shard of a TSV; which column is the URL is seen from '://'."""
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
