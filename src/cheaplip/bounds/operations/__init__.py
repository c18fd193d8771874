"""What functions of torch do to values of a network: as layers, sums, concatenations and products."""
