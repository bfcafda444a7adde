"""Files, console, command lines and processes: helpers without knowledge of the model."""
