"""Which network a run trains, as plain data."""

from __future__ import annotations

from pydantic import Field

from ..records import Record


class ModelConfig(Record):
    """Which network: one of ours, or the user's own."""

    name: str = "mlp"
    """mlp, cnn, or package.module:function, called with (input_shape, outputs)."""
    hidden: tuple[int, ...] | None = Field(None, strict=False)
    """Widths of the hidden layers, such as 64,64; not for a network of your own."""
    activation: str | None = None
    """relu, sigmoid, tanh, softplus, elu or abs; by default the network's own."""
    output_activation: str | None = None
    """An activation after the last layer, too."""
