"""What all readers of raw samples share: the unit of work, a sample, and the counts of what is read."""

from typing import NamedTuple

from input_pipeline.images import IMAGE_SUFFIXES

KINDS = {'txt': 'caption'} | {suffix[1:]: 'image' for suffix in IMAGE_SUFFIXES}  # by suffix
OTHER = 'other'  # a member that is no part of a sample, such as a folder or a .json
LARGEST_SHARD, SMALLEST_SHARD = 10_000, 500  # samples; 10,000 as in img2dataset's shards
ENOUGH_SHARDS = 64  # from which on shards grow, so that every core has work


class Shard(NamedTuple):
    """A unit of work: a tar, or consecutive rows of a file."""

    path: str
    offset: int = 0  # of the first row: in bytes, or the number of its row group (parquet)
    first_row: int = 0  # counted from 0
    rows: int = 0


class RawSample(NamedTuple):
    """One sample before its content is checked; `members` of a tar, or rows, make it up."""

    key: str
    image: bytes | None = None  # encoded; None: missing
    captions: tuple[bytes, ...] = ()  # (): missing
    defect: str | None = None  # a key of validate.REASONS, if already known
    members: int = 0
    group: str | None = None  # what its split follows from; None: its key


class Row(NamedTuple):
    """What one row of a table, one file of a folder or one item of a JSON says of an image.

    Rows with one identity are one sample.
    """

    image: str | None = None  # path as written; None: not stated here
    captions: tuple[str, ...] = ()
    identity: str | None = None  # of the image; None: its path
    defect: str | None = None  # a key of validate.REASONS: the row is a sample of its own
    text_file: str | None = None  # a file whose lines are the captions


class Part(NamedTuple):
    """What a member of a tar is, by its header."""

    key: str  # of the sample
    kind: str  # 'image', 'caption', OTHER, or a key of validate.REASONS


class Seen:
    """Counts what is read of a shard, before and apart from the decision what to keep.

    Attributes:
      members: of a tar, or rows.
      samples: runs of images and captions with one key; each unusable member counts as one.
      rows: of the shard's file, where it is one of rows.
      ignored: members that are no part of a sample; counted where this is decided.
      end: bytes of a tar, or rows of a parquet file, up to which all is complete.
      cut: why the rest of the shard cannot be read; '': all of it was read.
    """

    def __init__(self) -> None:
        self.members = self.samples = self.rows = self.ignored = self.end = 0
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

    def add_row(self, *, members: int = 1, starts: bool = True) -> None:
        """Counts a row of the shard.

        Args:
          members: rows of the source that it stands for.
          starts: it is a sample; otherwise it belongs to the one before.
        """
        self.rows, self.members = self.rows + 1, self.members + members
        self.samples += starts

    def add_cut(self, why: str) -> None:
        """Counts the damage at which reading ends: as the sample that it hits, or as one."""
        self.cut = why
        self.samples += self._last is None


def rows_a_shard(total: int) -> int:
    """How many of `total` samples one shard holds, a multiple of SMALLEST_SHARD.

    It depends on nothing else, so that a preparation that continues has the same shards.
    """
    steps = -(-total // (ENOUGH_SHARDS * SMALLEST_SHARD))
    return min(max(steps, 1) * SMALLEST_SHARD, LARGEST_SHARD)
