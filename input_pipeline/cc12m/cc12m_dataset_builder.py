"""TFDS builder of CC12M (or of any image-text tars) with an Apache Beam pipeline.

  PYTHONPATH=. tfds build input_pipeline/cc12m --file_format=array_record --manual_dir=DIR_OF_TARS

Beam's DirectRunner runs on one machine; docs/data.md has the options for Dataflow, Spark and Flink.
Each tar is one element of the pipeline; a worker streams it, with one sample in memory at a time.
"""

import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline import records
from input_pipeline.raw import tar_samples
from input_pipeline.raw.samples import Shard
from input_pipeline.validate import DropError
from pgs.errors import UserError


def examples_of(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, example) of the samples to keep; counts dropped ones by reason, in Beam."""
    beam = tfds.core.lazy_imports.apache_beam
    shard = os.path.basename(path).removesuffix('.tar')
    for sample in tar_samples.tar_samples(Shard(path)):
        try:
            example = records.example_of(sample)
        except DropError as drop:
            beam.metrics.Metrics.counter('dropped', drop.args[0]).inc()
            continue
        beam.metrics.Metrics.counter('samples', 'kept').inc()
        yield f'{shard}/{sample.key}', example


class Builder(tfds.core.GeneratorBasedBuilder):
    """Image-text pairs, with the same checks as input_pipeline.prepare."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'Image-text tar shards as img2dataset writes them.'}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download CC12M with img2dataset as image-text tars (00000.tar to 01242.tar), put them into one
    folder and give it as --manual_dir.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=records.features())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager, pipeline) -> dict:
        del pipeline
        paths = tar_samples.tars_in(os.fspath(dl_manager.manual_dir))
        if not paths:
            raise UserError(f'no .tar file in --manual_dir={dl_manager.manual_dir}')
        return {'train': self._generate_examples(paths)}

    def _generate_examples(self, paths: list[str]):
        beam = tfds.core.lazy_imports.apache_beam
        # Without Reshuffle, Beam would fuse the tars into one bundle for one worker.
        return beam.Create(paths) | beam.Reshuffle() | beam.FlatMap(examples_of)
