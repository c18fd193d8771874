"""Bounds of Lip(f), and what they prove.

`lower` (attained, with a witness) and `upper` (proved) make the `bracket`, from which the `certificate` takes radii. The
upper end is made of `slopes` of activations, `convolutions` and true norms of `layers`; `graph` finds the layers of a
network, `chain` writes them as matrices, `multipliers` turn those into a bound, `search` looks for good multipliers,
`intervals` narrow the slopes on a domain, and `subdivision` closes in on Lip(f) where the domain has few inputs.
"""
