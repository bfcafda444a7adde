"""Builds the embedded data sets: once, in the cache folder, completely or not at all."""

import fcntl
import os

import tensorflow_datasets as tfds


def build_once(
    builder_type: type[tfds.core.GeneratorBasedBuilder], cache_dir: str, notice: str
) -> tfds.core.DatasetBuilder:
    """Builds a data set unless it exists. TFDS writes to another name and renames at the end.

    Args:
      builder_type: the TFDS builder of the data set.
      cache_dir: folder of prepared data sets; '~' is expanded.
      notice: what is built and how long it takes; printed before a build.

    Raises:
      OSError: a folder that cannot be written.
    """
    folder = os.path.expanduser(cache_dir)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f'.{builder_type.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that start together, one builds, one waits
        builder = builder_type(data_dir=folder, file_format='array_record')
        if not builder.is_prepared():
            print(f'{notice} into {folder}', flush=True)
            tfds.disable_progress_bar()  # TFDS does not know the total; the builder has a bar
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
        return builder
