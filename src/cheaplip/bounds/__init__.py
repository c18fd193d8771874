"""What is proved: bounds of Lip(f), and radii within which a class cannot change.

`bracket` asks `lower` (attained, with a witness) and `upper` (proved), and `radius` turns the bracket into radii, larger ones
from single samples on with `centred`. `graph` runs a module once and notes the values of `network`, by the rules of `layers`
and `operations`. Each method in `upper` folds that graph, or has it as one chain from `serial`: the product of norms, the
certificate of `multipliers`, `subdivision` of a domain of few inputs into cells, with `intervals` of the Jacobian or an
`expansion` of it in `polynomials` there, `branching` on neurons in the regions of `zonotope`;
`ellipsoid` carries all values of any network along, by operations that are `linearised` into `blocks`. `rounding` has every
margin.
"""
