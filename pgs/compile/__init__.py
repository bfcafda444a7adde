"""The train step compiled ahead of time for a TPU slice that is not attached, and its cost."""
