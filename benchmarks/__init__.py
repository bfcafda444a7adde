"""Measurements that anyone can repeat; docs/performance.md quotes them."""

import input_pipeline  # noqa: F401  # sets TensorFlow's environment before a benchmark imports it
