"""Evaluation sets in CLIP-benchmark's webdataset layout, streamed from their tars.

A folder DIR/<set> holds classnames.txt (line i is class i), zeroshot_classification_templates.txt,
dataset_type.txt, and for each split nshards.txt and 0.tar, 1.tar ... with s0000000.webp, .cls, ...
"""

import io
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pgs.errors import UserError

IMAGE_EXTENSIONS = ('webp', 'png', 'jpg', 'jpeg')
LABEL_EXTENSIONS = {'classification': 'cls', 'multilabel': 'npy', 'retrieval': 'txt'}  # by kind
SIGNATURES = {b'RIFF': 'webp', b'\x89PNG': 'png', b'\xff\xd8\xff': 'jpg'}
# key and extension, split at the first dot as webdataset does; no absolute name, none with '..'
MEMBER_NAME = re.compile(r'((?:(?!\.\./)[^/]+/)*[^./]+)\.([^/]+)')

Label = int | np.ndarray | list[str]  # class id, 0/1 vector over the classes, captions


class EvalSet(NamedTuple):
    """One split of a set, tars unread. Retrieval sets have no classnames and no templates."""

    name: str
    kind: str  # 'classification', 'multilabel' or 'retrieval'
    classnames: list[str]
    templates: list[str]
    shards: list[Path]


class Sample(NamedTuple):
    key: str
    image: bytes  # still encoded
    label: Label


def folder_name(dataset: str) -> str:
    """The folder of a set that CLIP-benchmark calls so: 'wds/vtab/cifar10' -> 'vtab-cifar10'."""
    return dataset.removeprefix('wds/').replace('/', '-')


def open_eval_set(folder: str | Path, split: str = 'test') -> EvalSet:
    """Reads all but the tars of one split.

    Raises:
      UserError: a missing or malformed file or a missing tar, by name.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder: give that of one evaluation set, DIR/<set>')
    description = read_description(folder)
    count_path = folder / split / 'nshards.txt'
    count = ' '.join(read_lines(count_path, 'it must hold the number of tars of the split'))
    if not re.fullmatch('[1-9][0-9]{0,5}', count):
        raise UserError(f'{count_path} holds {count[:20]!r}: it must hold the number of tars')
    shards = [folder / split / f'{index}.tar' for index in range(int(count))]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f'{shard} is missing, nshards.txt counts {count} tars: fetch it')
    return description._replace(shards=shards)


def iter_samples(eval_set: EvalSet) -> Iterator[Sample]:
    """Samples in the order of the tars; holds one at a time and writes nothing to disk.

    Raises:
      UserError: a damaged tar, after the samples that end in front of the damage; a sample without
        image or label, or with a label that does not fit the set; a set without samples.
    """
    total = 0
    for shard in eval_set.shards:
        before = total
        try:
            for key, files in grouped_members(shard):
                yield Sample(key, *decode(eval_set, files, f'{shard}: sample {key!r}'))
                total += 1
        except (tarfile.TarError, OSError) as error:
            count = total - before
            raise UserError(
                f'{shard} is cut or corrupt after {count} samples ({error}): fetch it again'
            ) from error
    if not total:
        raise UserError(f'the tars in {eval_set.shards[0].parent} hold no sample: fetch them again')


def count_samples(eval_set: EvalSet) -> int:
    """Samples of a set by the headers of its first and last tar: exact where all but the last have
    as many, as writers leave them. In a damaged tar those before the damage count."""

    def labels(shard: Path) -> int:
        count = 0
        try:
            with tarfile.open(shard, 'r:') as archive:
                for member in archive:
                    archive.members.clear()
                    count += member.name.endswith(extension)
        except (tarfile.TarError, OSError):
            pass  # iter_samples says so, with the place
        return count

    extension, shards = f'.{LABEL_EXTENSIONS[eval_set.kind]}', eval_set.shards
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
    """Writes a split; nshards.txt, without which it cannot be opened, comes last.

    Args:
      folder, split: as open_eval_set; what is there is replaced.
      samples: image, encoded as WebP, PNG or JPEG, and label; keys are s0000000, s0000001 ...
      kind, classnames, templates: as in EvalSet.
      shard_size: samples a tar.

    Raises:
      UserError: webdataset is not installed, or reading would not give back what was given.
    """
    try:
        import webdataset  # the package; only preparation needs it
    except ImportError as error:
        raise UserError('writing an evaluation set needs: pip install webdataset') from error
    folder = Path(folder).expanduser().resolve()  # webdataset takes a name with ':' for a URL
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
            content = '\n'.join(label) if kind == 'retrieval' else label
            files = encode({extension: image, LABEL_EXTENSIONS[kind]: content})
            # what reading would refuse or change is refused here
            if not np.array_equal(decode(eval_set, files, f'sample {index}')[1], label):
                raise UserError(f'sample {index}: its label would not be read back as it is')
            writer.write({'__key__': f's{index:07d}', **files})
        count = writer.shard
    (folder / split / 'nshards.txt').write_text(f'{count}\n', encoding='utf-8')
    return open_eval_set(folder, split)


def read_lines(path: Path, remedy: str) -> list[str]:
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', 'not UTF-8 text')
        raise UserError(f'cannot read {path} ({reason}): {remedy}') from error
    return [line.strip() for line in text.rstrip().split('\n')]


def read_description(folder: Path) -> EvalSet:
    """The set without its shards."""
    type_path, kind = folder / 'dataset_type.txt', 'classification'
    known = f'it must hold one of {", ".join(LABEL_EXTENSIONS)}'
    if type_path.exists():
        kind = ' '.join(read_lines(type_path, known)).lower()
    if kind not in LABEL_EXTENSIONS:
        raise UserError(f'{type_path} holds {kind[:20]!r}: {known}')
    eval_set = EvalSet(folder.resolve().name, kind, classnames=[], templates=[], shards=[])
    if kind == 'retrieval':
        return eval_set
    path = folder / 'classnames.txt'
    classnames = read_lines(path, 'it must hold the class names, one a line')
    if '' in classnames:  # left out, it would shift the ids of those that follow
        raise UserError(f'{path} line {classnames.index("") + 1} is empty: ids count the lines')
    path = folder / 'zeroshot_classification_templates.txt'
    # clip-benchmark has no default either: it asserts that a set has templates
    templates = read_lines(path, 'it must hold templates such as "a photo of a {c}.", one a line')
    if bad := [template for template in templates if '{c}' not in template]:
        raise UserError(f'{path}: {bad[0]!r} lacks {{c}}, which stands for the class name')
    return eval_set._replace(classnames=classnames, templates=templates)


def grouped_members(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: content}) of neighbouring files that share a key."""
    for key, members in itertools.groupby(read_members(shard), key=lambda member: member[0]):
        files = {}
        for _, extension, content in members:
            if extension in files:
                raise UserError(f'{shard}: sample {key!r} has two .{extension}: keep one')
            files[extension] = content
        yield key, files


def read_members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """(key, extension, content) of the regular files with a name that stays inside."""
    with shard.open('rb') as file, tarfile.open(fileobj=file, mode='r|') as archive:
        for member in archive:
            archive.members.clear()  # tarfile would keep every header
            name = MEMBER_NAME.fullmatch(member.name)
            if name and member.isreg():
                yield name[1], name[2].lower(), archive.extractfile(member).read()
        # tarfile takes a cut between two members, and a damaged header, for the end
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError('the end mark is missing')


def decode(eval_set: EvalSet, files: dict[str, bytes], where: str) -> tuple[bytes, Label]:
    """Image and label of a sample; `where` begins the message of an error."""
    image = next((files[e] for e in IMAGE_EXTENSIONS if files.get(e)), None)
    if image is None:
        raise UserError(f'{where} has no image: it needs one of {", ".join(IMAGE_EXTENSIONS)}')
    extension = LABEL_EXTENSIONS[eval_set.kind]
    if extension not in files:
        raise UserError(f'{where} has no label: a {eval_set.kind} set needs .{extension}')
    try:
        return image, read_label(eval_set.kind, files[extension], len(eval_set.classnames))
    except ValueError as error:
        raise UserError(f'{where}: .{extension} cannot be used: {error}') from error


def read_label(kind: str, content: bytes, num_classes: int) -> Label:
    if kind == 'retrieval':
        captions = [line for line in content.decode('utf-8').splitlines() if line.strip()]
        if not captions:
            raise ValueError('no caption, there must be at least one, one a line')
        return captions
    if kind == 'multilabel':
        try:
            labels_C = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # bad bytes raise half a dozen kinds
            raise ValueError('no plain array; pickled ones are never loaded') from error
        if np.shape(labels_C) != (num_classes,) or not np.isin(labels_C, (0, 1)).all():
            raise ValueError(f'it must hold 0 or 1 for each of the {num_classes} classes')
        return labels_C
    class_id = int(content)
    if not 0 <= class_id < num_classes:
        raise ValueError(f'class id {class_id}, but {num_classes} classes, counted from 0')
    return class_id
