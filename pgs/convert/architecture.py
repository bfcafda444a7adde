"""Takes the sizes of config.model from the weights that a run starts from (config.model_from_weights)."""

from etils import epath
from ml_collections import ConfigDict

from pgs.convert.integrity import checkpoint_steps
from pgs.convert.load import read
from pgs.convert.orbax_folder import read_architecture
from pgs.convert.parameters import ARCHITECTURE_KEYS
from pgs.errors import UserError


def with_architecture(config: ConfigDict, workdir: epath.Path | None = None) -> ConfigDict:
    """A copy of config with the model of config.init_from; as it is without model_from_weights.

    The dtype, remat and text.tokens_per_pair stay, and so does an image size that is not None:
    positions are resampled.

    Args:
      config: as configs/base.py.
      workdir: of the run. One that is resumed keeps its model, and its weights need not exist any more.

    Raises:
      UserError: no weights are named, or they cannot be read.
    """
    if not config.model_from_weights:
        return config
    if not config.init_from:
        raise UserError(
            'config.model_from_weights takes the model from given weights: name them by '
            '--config.init_from=PATH (a run, or weights of OpenCLIP or Hugging Face, docs/weights.md)'
        )
    if workdir is not None and checkpoint_steps(workdir) and (workdir / 'config.json').is_file():
        architecture = read_architecture(workdir)
    else:
        architecture = read(config.init_from).config
    config = config.copy_and_resolve_references()
    size, remat = config.model.image.image_size, config.model.remat
    budget = config.model.text.tokens_per_pair
    with config.unlocked():
        config.model.update({key: architecture[key] for key in ARCHITECTURE_KEYS})
    config.model.remat = remat
    config.model.text.tokens_per_pair = budget
    if size is not None:
        config.model.image.image_size = size
    return config
