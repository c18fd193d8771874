"""How a network is trained: `fit`, Algorithm 2 of the CLIP paper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
