"""Bounds of Lip(f): `lower` (attained, with a witness), `layers` (true layer norms), `bracket` (both, with scope)."""
