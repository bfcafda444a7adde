"""What is asked for, and how worker processes read the shards of a source."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from input_pipeline.raw import listing, parquet, tar_samples, url_rows
from input_pipeline.raw.columns import Columns
from input_pipeline.raw.image_files import ImageFiles
from input_pipeline.raw.samples import RawSample, Seen, Shard


class Request(NamedTuple):
    """What the command was asked to read."""

    source: str
    images: str | None = None
    image_key: str | None = None
    caption_key: str | None = None
    template: str | None = None


class Reader(NamedTuple):
    """How a worker process reads the shards of a source.

    Attributes:
      kind: 'tar', 'parquet' (with images in it), 'url' (a TSV of URLs without a header) or 'list'.
      folder: of image files; None where there are none beside the source.
      reroot: see ImageFiles.
      columns: of a parquet file.
    """

    kind: str
    folder: str | None = None
    reroot: bool = False
    columns: Columns | None = None

    def open(self) -> Callable[[Shard, Seen], Iterator[RawSample]]:
        """A function that streams the samples of a shard, and counts what is read."""
        if self.kind == 'tar':
            return tar_samples.tar_samples
        if self.kind == 'url':
            found = url_rows.ImageFolder(self.folder or '')
            return lambda shard, seen: url_rows.tsv_samples(shard, found, seen)
        files = ImageFiles(self.folder or '', reroot=self.reroot)
        if self.columns is not None:
            chosen = self.columns
            return lambda shard, seen: parquet.samples(shard, chosen, files, seen)
        return lambda shard, seen: listing.samples(shard, files, seen)
