"""Data: preparing image-text pairs, reading them in batches on the host, evaluation sets.

TensorFlow is used only to read and augment data. Before it is imported, this package turns off its
start-up messages, and oneDNN's operations, whose rounding depends on the machine.
"""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def hide_accelerators_from_tensorflow() -> None:
    """Leaves GPUs to JAX; must be called before TensorFlow uses one."""
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
