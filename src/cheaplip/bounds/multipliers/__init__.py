"""The multiplier certificate: an upper bound of Lip(f) by quadratic constraints on the activations, proved by Cholesky."""
