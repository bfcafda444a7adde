"""The held-out emoji as another vendor draws them, at the same place over the same background.

A model that is scored on them sees new drawings of known roles: a test of a shift. The pictures are
PNG files named by code points, such as those in img/google/64 of npm's emoji-datasource-google.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline import openmoji, scenes
from input_pipeline.sources import Records
from pgs.errors import UserError

# Code point that asks for the coloured emoji: one vendor writes it, another does not.
VARIATION = '-fe0f'


def plain(stem: str) -> str:
    """Code points as all vendors write them, such as '1f44b-1f3fb'."""
    return stem.lower().replace(VARIATION, '')


def pictures(folder: Path) -> dict[str, Path]:
    """Code points, as `plain` gives them -> file.

    Raises:
      UserError: a folder without PNG files, or none at all.
    """
    found = {plain(p.stem): p for p in sorted(folder.glob('*.png'))}
    if not found:
        raise UserError(
            f'--shifted={folder} has no PNG files: give a folder of emoji that are named by their '
            'code points, such as img/google/64 of the npm package emoji-datasource-google'
        )
    return found


class OtherEmoji:
    """Held-out records with another vendor's pictures, as `held_out.features_of` reads them."""

    def __init__(self, held_out: Records, folder: Path, data: str):
        """Finds the pictures; those that the vendor lacks are left out.

        Args:
          held_out: the validation split of an embedded data set.
          folder: of `pictures`.
          data: name of the data set, 'openmoji' or 'openmoji_scenes'.

        Raises:
          UserError: as `pictures`, or pictures of none of the held-out emoji.
        """
        files = pictures(folder)
        self._files: list[Path] = []
        self._records: list[dict[str, Any]] = []
        for index in range(len(held_out)):
            row = held_out[index]
            stem = row['code_points'].decode()
            if path := files.get(plain(stem)):
                self._files.append(path)
                image = drawn(path, stem, data)
                self._records.append({'image': image, 'captions': row['captions']})
        if not self._files:
            raise UserError(f'--shifted={folder} has none of the {len(held_out)} held-out emoji')

    def __len__(self) -> int:
        return len(self._records)

    def location(self, index: int) -> str:
        """The file, for messages."""
        return str(self._files[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._records[index]


def drawn(path: Path, stem: str, data: str) -> bytes:
    """A picture where the data set has its own of the same code points; as JPEG."""

    def render(stem: str, size: int = openmoji.RENDER_SIZE) -> np.ndarray:
        del stem
        picture = Image.open(path).convert('RGBA')
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))

    if data == scenes.OpenMojiScenes.name:
        return scenes.jpeg(scenes.scene(stem, 0, 'validation', render)[0])
    return scenes.jpeg(openmoji.over_white(render(stem)))
