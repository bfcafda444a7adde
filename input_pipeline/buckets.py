"""gs:// addresses, through TensorFlow's file system, as the files of a workdir.

It has the credentials of the machine, asks for 64 MiB at a time, and repeats a request up to ten
times, after 1 to 32 seconds, if the service is busy or a connection is cut.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import tensorflow as tf

from pgs.errors import UserError
from pgs.utils.files import reason

SCHEME = 'gs://'
LOG_IN = (
    'log in with `gcloud auth application-default login`, or give the service account of this '
    'machine the role Storage Object User on the bucket'
)
DENIED = (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError, PermissionError)
ABSENT = (tf.errors.NotFoundError, FileNotFoundError)


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith(SCHEME)


def bucket_of(path: str | os.PathLike) -> str:
    """'gs://BUCKET' of an address."""
    return SCHEME + os.fspath(path).removeprefix(SCHEME).split('/')[0]


def check_scheme(what: str, path: str) -> None:
    """Checks that a path is local or in a bucket of Cloud Storage.

    Args:
      what: as the user named it, such as '--out=s3://bucket'.
      path: to check.

    Raises:
      UserError: another scheme, or gs:// without a bucket.
    """
    if '://' in path and not is_bucket(path):
        raise UserError(f'{what}: of all addresses only gs://BUCKET/FOLDER is supported')
    if is_bucket(path) and bucket_of(path) == SCHEME:
        raise UserError(f'{what} names no bucket: give gs://BUCKET/FOLDER')


@contextlib.contextmanager
def errors_named(what: str) -> Iterator[None]:
    """Turns an error of TensorFlow's file system within the block into a UserError.

    Args:
      what: is done, such as 'cannot read gs://bucket/file'.

    Raises:
      UserError: 'WHAT: REASON: REMEDY'.
    """
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f'{what}: {explain(error)}') from error


def explain(error: tf.errors.OpError | OSError) -> str:
    """Why an address could not be used, and what to do about it."""
    code = re.search(r'response code (\d+)', str(error))
    status = f' (HTTP {code[1]})' if code else ''
    if isinstance(error, DENIED):
        return f'access is denied{status}: {LOG_IN}'
    if isinstance(error, ABSENT):
        return f'it does not exist{status}: check the names of the bucket and of the folder'
    words = reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
    return f'{words}; check the connection to Cloud Storage, then start again'


def exists(what: str, address: str) -> bool:
    """Whether there is an object.

    Args:
      what: cannot be done without an answer, such as 'cannot read config.data.dir=...'.
      address: of the object.

    Raises:
      UserError: a bucket that does not exist, without credentials for it, or out of reach.
    """
    with errors_named(what):
        try:
            tf.io.gfile.stat(address)
            return True
        except tf.errors.NotFoundError as error:
            if 'response code 404' in str(error):  # of the list of objects that begin like it
                bucket = bucket_of(address)
                raise UserError(
                    f'{what}: the bucket {bucket} does not exist: check its name'
                ) from error
            return False
