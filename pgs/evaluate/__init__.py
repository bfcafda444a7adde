"""The evaluation protocols and tasks of the paper."""
