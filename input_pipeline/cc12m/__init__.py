"""CC12M as a TFDS data set, by Apache Beam."""
