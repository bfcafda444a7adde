"""Raw samples of image-text tar shards.

Nothing is written to disk, so the names of a tar's members can do no harm.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline import tars
from input_pipeline.raw.lines import is_utf8
from input_pipeline.raw.samples import KINDS, OTHER, Part, RawSample, Seen, Shard
from input_pipeline.tars import MAX_FILE_BYTES
from pgs.errors import UserError


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


def tars_in(folder: str) -> list[str]:
    """The tars of a folder, sorted.

    Raises:
      OSError: a folder that cannot be read.
    """
    return sorted(str(path) for path in Path(folder).iterdir() if path.suffix == '.tar')


def estimate(paths: list[str]) -> int:
    """The number of samples of tars: that of the first with any, scaled by the sizes in bytes.

    Only the headers of that tar are read.
    """
    for path in paths:
        seen = Seen()
        try:
            for _, member in tars.stream(Path(path)):
                seen.add(part_of(member), member.offset)
        except (tarfile.TarError, OSError):
            continue
        if seen.samples:
            return round(seen.samples * sum(map(os.path.getsize, paths)) / os.path.getsize(path))
    return 0


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
            captions = (parts['caption'],) if 'caption' in parts else ()
            yield RawSample(key, parts.get('image'), captions, defect, members)

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
