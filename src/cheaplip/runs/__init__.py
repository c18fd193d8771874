"""What a run is: a training with its evaluation, described by plain data and left in a folder; and grids of them."""
