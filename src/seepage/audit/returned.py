"""What an attack handed back, if it can be scored: one's own may return anything."""

from seepage.types import Reconstruction

__all__ = ["checked"]


def checked(found: object, input_shape: tuple[int, ...]) -> Reconstruction:
    """The reconstruction.

    Args:
        found: what the attack returned.
        input_shape: of one example; an inner layer has inputs of another shape.

    Raises:
        TypeError: it is no ``Reconstruction``.
        ValueError: its inputs are no examples. Both are faults of the attack, told as a crash is.
    """
    if not isinstance(found, Reconstruction):
        raise TypeError(f"the attack should return a Reconstruction; found {type(found).__name__}.")
    if found.inputs is not None and not found.layer and tuple(found.inputs.shape[1:]) != tuple(input_shape):
        shape = list(found.inputs.shape)
        raise ValueError(
            f"the attack should return inputs of shape [b, {str(list(input_shape))[1:-1]}]; found {shape}."
        )
    return found
