"""From files of image-text pairs to batches on the host.

TensorFlow reads and augments data here and computes nothing else. Its start-up messages are turned
off before anything imports it, and so are oneDNN's operations, which change rounding by machine.
"""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def hide_accelerators_from_tensorflow() -> None:
    """Leaves GPUs to JAX; to be called before TensorFlow uses one."""
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
