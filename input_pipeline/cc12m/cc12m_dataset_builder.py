"""TFDS builder of CC12M (or any image-text tar shards) with an Apache Beam pipeline.

  PYTHONPATH=. tfds build input_pipeline/cc12m --file_format=array_record --manual_dir=DIR_OF_TARS

Beam's DirectRunner runs it on one machine; docs/data.md has the lines for Dataflow, Spark and Flink.
Each tar is one element: a worker streams it, one sample in memory at a time.
"""

import os

import tensorflow_datasets as tfds

from input_pipeline import raw_samples, records
from input_pipeline.validate import DropError


def examples_of(path: str):
    """(key, example) of every sample of a tar that passes; drops are counted by reason in Beam."""
    beam = tfds.core.lazy_imports.apache_beam
    shard = os.path.basename(path).removesuffix('.tar')
    for sample in raw_samples.tar_samples(raw_samples.Shard(path)):
        try:
            example = records.example_of(sample)
        except DropError as drop:
            beam.metrics.Metrics.counter('dropped', drop.args[0]).inc()
            continue
        beam.metrics.Metrics.counter('samples', 'kept').inc()
        yield f'{shard}/{sample.key}', example


class Builder(tfds.core.GeneratorBasedBuilder):
    """Image-text pairs, checked as input_pipeline.prepare checks them."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'Image-text tar shards as img2dataset writes them.'}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download CC12M with img2dataset as image-text tar shards (00000.tar to 01242.tar), put them into
    one folder and name it by --manual_dir.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=records.features())

    def _split_generators(self, dl_manager, pipeline):
        del pipeline
        shards, _ = raw_samples.find_shards(os.fspath(dl_manager.manual_dir))
        return {'train': self._generate_examples([shard.path for shard in shards])}

    def _generate_examples(self, paths):
        beam = tfds.core.lazy_imports.apache_beam
        # Reshuffle keeps Beam from fusing the tars into one bundle, which one worker would get.
        return beam.Create(paths) | beam.Reshuffle() | beam.FlatMap(examples_of)
