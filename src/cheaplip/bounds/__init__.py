"""What is proved: bounds of Lip(f), and radii within which a class cannot change.

`bracket` asks `lower` (attained, with a witness) and `upper` (proved), and `radius` turns the bracket into radii. `graph`
traces a module once into the tree of `network`; each method in `upper` folds that tree: the product of the norms in
`layers`, the certificate of `multipliers`, `subdivision` of a domain of few inputs. `rounding` has every margin.
"""
