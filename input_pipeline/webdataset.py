"""Evaluation sets in CLIP-benchmark's webdataset layout, streamed from their tars.

A folder DIR/<set> holds classnames.txt (line i names class i), zeroshot_classification_templates.txt
and dataset_type.txt. Each split is a folder of nshards.txt and 0.tar, 1.tar, ..., whose samples are
files such as s0000000.webp and s0000000.cls.
"""

import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from input_pipeline import tars
from input_pipeline.labels import EXTENSIONS, Label, read_label
from pgs.errors import UserError
from pgs.utils.files import read_small

IMAGE_EXTENSIONS = ('webp', 'png', 'jpg', 'jpeg')  # in CLIP-benchmark's order of preference
SIGNATURES = {b'RIFF': 'webp', b'\x89PNG': 'png', b'\xff\xd8\xff': 'jpg'}  # first bytes of a file
# Key and extension, split at the first dot as webdataset does; absolute names and '..' do not match.
MEMBER_NAME = re.compile(r'((?:(?!\.\./)[^/]+/)*[^./]+)\.([^/]+)')


class EvalSet(NamedTuple):
    """One split of a set, before its tars are read.

    Retrieval sets have no classnames and no templates.
    """

    name: str
    kind: str  # 'classification', 'multilabel' or 'retrieval'
    classnames: list[str]
    templates: list[str]
    shards: list[Path]


class Sample(NamedTuple):
    """One image with its label."""

    key: str
    image: bytes  # still encoded
    label: Label


def open_eval_set(folder: str | Path, split: str = 'test') -> EvalSet:
    """Opens one split; reads every file except the tars.

    Args:
      folder: of the set, with or without ~.
      split: name of a folder inside.

    Raises:
      UserError: a missing or malformed file or a missing tar; names it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(
            f'{folder} is not a folder: give the folder of one evaluation set, DIR/<set>'
        )
    description = read_description(folder)
    count_path = folder / split / 'nshards.txt'
    count = ' '.join(read_lines(count_path, 'it must hold the number of tars of the split'))
    if not re.fullmatch('[1-9][0-9]{0,5}', count):
        raise UserError(f'{count_path} holds {count[:20]!r}: it must hold the number of tars')
    shards = [folder / split / f'{index}.tar' for index in range(int(count))]
    for shard in shards:
        if not shard.is_file():
            state = 'no file' if shard.exists() else 'missing'
            raise UserError(f'{shard} is {state}, nshards.txt counts {count} tars: fetch it')
    return description._replace(shards=shards)


def iter_samples(eval_set: EvalSet) -> Iterator[Sample]:
    """Yields the samples in the order of the tars; keeps one in memory, writes nothing to disk.

    Raises:
      UserError: a damaged tar, after the samples that end before the damage; a sample without
        image or label, or with a label that does not fit the set; a set without samples.
    """
    total = 0
    for shard in eval_set.shards:
        before = total
        try:
            for key, files in grouped_members(shard):
                yield Sample(
                    key, *decode(eval_set, files, f'{shard}: sample {key[: tars.SHOWN]!r}')
                )
                total += 1
        except (tarfile.TarError, OSError) as error:
            count = total - before
            raise UserError(
                f'{shard} is cut or corrupt after {count} samples ({error}): fetch it again'
            ) from error
    if not total:
        raise UserError(f'the tars in {eval_set.shards[0].parent} hold no sample: fetch them again')


def count_samples(eval_set: EvalSet) -> int:
    """Number of samples, from the headers of the first and the last tar.

    Exact if all tars except the last hold equally many, which is how they are written. In a damaged
    tar, only the samples before the damage count.
    """

    def labels(shard: Path) -> int:
        count = 0
        try:
            for _, member in tars.stream(shard):
                count += member.name.endswith(extension)
        except (tarfile.TarError, OSError):
            pass  # iter_samples reports it, with the place
        return count

    extension, shards = f'.{EXTENSIONS[eval_set.kind]}', eval_set.shards
    return labels(shards[0]) * (len(shards) - 1) + labels(shards[-1])


def write_eval_set(
    folder: str | Path,
    split: str,
    samples: Iterable[tuple[bytes, Label]],
    *,
    kind: str,
    classnames: Iterable[str] = (),
    templates: Iterable[str] = (),
    shard_size: int = 10_000,
) -> EvalSet:
    """Writes a split; nshards.txt, which `open_eval_set` requires, is written last.

    Args:
      folder, split: see `open_eval_set`; existing files are replaced.
      samples: (image encoded as WebP, PNG or JPEG, label); the keys are s0000000, s0000001, ...
      kind, classnames, templates: see `EvalSet`.
      shard_size: samples of a tar.

    Raises:
      UserError: webdataset is not installed, or reading would not return the same values.
    """
    try:
        import webdataset  # the package; reading does not need it
    except ImportError as error:
        raise UserError('writing an evaluation set needs: pip install webdataset') from error
    folder = Path(folder).expanduser().resolve()  # webdataset treats a name with ':' as a URL
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / split / 'nshards.txt').unlink(missing_ok=True)
    given = ([kind], list(classnames), list(templates))
    names = ('dataset_type.txt', 'classnames.txt', 'zeroshot_classification_templates.txt')
    for name, lines in zip(names, given, strict=True):
        (folder / name).write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
    eval_set = read_description(folder)
    if ([eval_set.kind], eval_set.classnames, eval_set.templates) != given:
        raise UserError(f'{folder}: names and templates must be trimmed lines, none for retrieval')

    encode = webdataset.writer.make_encoder(True)
    pattern = f'{folder / split}/'.replace('%', '%%') + '%d.tar'
    with webdataset.ShardWriter(pattern, maxcount=shard_size, verbose=0, mtime=0) as writer:
        for index, (image, label) in enumerate(samples):
            extension = next((e for s, e in SIGNATURES.items() if image.startswith(s)), 'unknown')
            content = '\n'.join(cast(list[str], label)) if kind == 'retrieval' else label
            files = encode({extension: image, EXTENSIONS[kind]: content})
            # Refuses labels that reading would refuse or change.
            if not np.array_equal(decode(eval_set, files, f'sample {index}')[1], label):
                raise UserError(f'sample {index}: its label would not be read back as it is')
            writer.write({'__key__': f's{index:07d}', **files})
        count = writer.shard
    (folder / split / 'nshards.txt').write_text(f'{count}\n', encoding='utf-8')
    return open_eval_set(folder, split)


def read_lines(path: Path, remedy: str) -> list[str]:
    """The trimmed lines of a UTF-8 file; `remedy` ends the message of an error."""
    try:
        text = read_small(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f'cannot read {path} (not UTF-8 text): {remedy}') from error
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(f'cannot read {path} ({why}): {remedy}') from error
    return [line.strip() for line in text.rstrip().split('\n')]


def read_description(folder: Path) -> EvalSet:
    """The set without its shards, from the text files of its folder."""
    type_path, kind = folder / 'dataset_type.txt', 'classification'
    known = f'it must hold one of {", ".join(EXTENSIONS)}'
    if type_path.exists():
        kind = ' '.join(read_lines(type_path, known)).lower()
    if kind not in EXTENSIONS:
        raise UserError(f'{type_path} holds {kind[:20]!r}: {known}')
    eval_set = EvalSet(folder.resolve().name, kind, classnames=[], templates=[], shards=[])
    if kind == 'retrieval':
        return eval_set
    path = folder / 'classnames.txt'
    classnames = read_lines(path, 'it must hold the class names, one per line')
    if '' in classnames:  # skipping it would shift the ids of the following classes
        raise UserError(f'{path} line {classnames.index("") + 1} is empty: ids count the lines')
    path = folder / 'zeroshot_classification_templates.txt'
    # No default, as in clip-benchmark, which asserts that a set has templates.
    templates = read_lines(path, 'it must hold templates such as "a photo of a {c}.", one per line')
    if bad := [template for template in templates if '{c}' not in template]:
        raise UserError(f'{path}: {bad[0]!r} lacks {{c}}, which stands for the class name')
    return eval_set._replace(classnames=classnames, templates=templates)


def grouped_members(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {extension: content}) of consecutive files with the same key."""
    for key, members in itertools.groupby(read_members(shard), key=lambda member: member[0]):
        files: dict[str, bytes] = {}
        for _, extension, content in members:
            if extension in files:
                raise UserError(
                    f'{shard}: sample {key[: tars.SHOWN]!r} has two '
                    f'{"." + extension[: tars.SHOWN]!r}: keep one'
                )
            files[extension] = content
        yield key, files


def read_members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields (key, extension, content) of regular files, without absolute names and '..'."""
    for archive, member in tars.stream(shard):
        name = MEMBER_NAME.fullmatch(member.name)
        if name and tars.is_file(member):
            if member.size > tars.MAX_FILE_BYTES:
                raise tarfile.ReadError(f'{member.name[: tars.SHOWN]!r} claims {member.size} bytes')
            yield name[1], name[2].lower(), tars.content(archive, member)


def decode(eval_set: EvalSet, files: dict[str, bytes], where: str) -> tuple[bytes, Label]:
    """(encoded image, label) of a sample; `where` begins the message of an error."""
    image = next((files[e] for e in IMAGE_EXTENSIONS if files.get(e)), None)
    if image is None:
        raise UserError(f'{where} has no image: it needs one of {", ".join(IMAGE_EXTENSIONS)}')
    extension = EXTENSIONS[eval_set.kind]
    if extension not in files:
        raise UserError(f'{where} has no label: a {eval_set.kind} set needs .{extension}')
    try:
        return image, read_label(eval_set.kind, files[extension], len(eval_set.classnames))
    except ValueError as error:
        raise UserError(f'{where}: .{extension} cannot be used: {error}') from error
