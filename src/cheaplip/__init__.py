"""cheaplip: cheap Lipschitz training of PyTorch networks (CLIP, SSVM 2021, arXiv:2103.12531).

The public names are those of `__init__.pyi`. They are loaded on first use: `import cheaplip` does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
