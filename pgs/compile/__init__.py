"""The train step compiled ahead of time for a TPU slice that is not there, and what it would cost."""
