"""Which samples are held out: by a hash of their key, so that a split is the same on every machine."""

import hashlib
import re
import unicodedata
import urllib.parse
from typing import NamedTuple

from input_pipeline.images import IMAGE_SUFFIXES
from pgs.errors import UserError

# Marks of a copy at the end of a name: ' (1)', ' - Copy', '_copy2'. Only one digit in brackets, since some
# programs name all photos of a folder 'photo (1)' to 'photo (999)'.
COPY = re.compile(r'(?:[\s_.-]*\(\d\)|[\s_.-]+(?:copy|copie|kopie)(?:[\s_.-]*\d)?)$')
COPY_OF = re.compile(r'^copy of\s+')
NUMBER = re.compile(r'[_-]\d$')  # of one digit, once: 'cat_2', but not 'img_0002'


class HeldOut(NamedTuple):
    """What --held_out asks for; one of the two is set."""

    share: float | None = None  # of the samples
    pairs: int | None = None

    def share_of(self, total: int) -> float:
        """The share of `total` samples.

        Raises:
          UserError: less than one sample, or all of them.
        """
        if self.pairs is not None:
            if self.pairs >= total:
                raise UserError(
                    f'--held_out={self.pairs} leaves nothing of {total} samples to train on'
                )
            return self.pairs / total
        assert self.share is not None
        if self.share * total < 1:
            raise UserError(
                f'--held_out={self.share} of {total} samples is less than one: give a number of '
                f'pairs, such as --held_out={max(total // 20, 1)}'
            )
        return self.share


def parse(text: str) -> HeldOut:
    """A share above 0 and below 1, or a whole number of pairs from 1 on.

    Raises:
      UserError: another text.
    """
    if re.fullmatch(r'[1-9]\d{0,11}', text):
        return HeldOut(pairs=int(text))
    if re.fullmatch(r'0?\.\d{1,12}', text) and float(text) > 0:
        return HeldOut(share=float(text))
    raise UserError(
        f'--held_out={text} must be a share such as 0.01, or a whole number of pairs such as 1000'
    )


def is_held_out(key: str, share: float) -> bool:
    """Whether a sample is held out; samples with one `split_key` are on one side."""
    digest = hashlib.blake2b(split_key(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def split_key(key: str) -> str:
    """A key without what distinguishes copies of one image.

    These make no difference: upper and lower case, the way in which Unicode composes a letter, image
    suffixes, copy marks ('cat (1)', 'cat - Copy', 'Copy of cat'), one digit behind _ or - ('cat_2'),
    and the query of a URL whose path has an image suffix. Folders make one: dog/1.jpg, cat/1.jpg.
    """
    key = unicodedata.normalize('NFC', key.casefold()).replace('\\', '/')
    if '://' in key:
        try:
            address = urllib.parse.urlsplit(key)
        except ValueError:
            return key
        if address.path.endswith(IMAGE_SUFFIXES):
            key = address.netloc + urllib.parse.unquote(address.path)
        else:
            return key
    folder, slash, name = key.rpartition('/')
    return folder + slash + (without_marks(name) or name)


def without_marks(name: str) -> str:
    """A file's name in lower case, without suffixes of images and marks of copies."""
    before = None
    while name != before:
        before = name
        for suffix in IMAGE_SUFFIXES:
            name = name.removesuffix(suffix)
        name = COPY_OF.sub('', COPY.sub('', name)).strip()
    return COPY.sub('', NUMBER.sub('', name)).strip()
