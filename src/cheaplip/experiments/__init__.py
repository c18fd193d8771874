"""The paper's experiments, each from one command: what `cheaplip reproduce` runs."""
