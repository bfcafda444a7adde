"""CC12M as a TFDS data set, prepared by Apache Beam."""
