"""How a network is trained: `fit`, Algorithm 2 of the CLIP paper."""
