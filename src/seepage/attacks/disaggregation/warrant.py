"""Whether zeros and rank alone may certify, where the network cannot be replayed: what the client's rule promises."""

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.types import Observation, Traces

__all__ = ["unwarranted"]


def unwarranted(observation: Observation, mixture: Mixture) -> str | None:
    """Why facts 1 to 3 of the certificate prove nothing here without the fourth; ``None`` if they do.

    They take the update for ``gW = A^T X`` and ``gb = A^T 1`` with one true input in each row of ``X``. A replay would
    show where that is not so; without one the client's rule has to promise it (:class:`~seepage.types.Traces`).

    Args:
        observation: its rule is what is known of the client.
        mixture: the attacked layer, and its rank. One example alone is not pinned by anything, and what a
            defense makes of its gradient may have rank one again (its sign has): only the agreement would be left.
    """
    if observation.rule is None:
        return "without knowing the client's rule zeros and rank prove nothing"
    traces = observation.rule.traces
    if traces is Traces.NONE:
        return f"what {observation.rule.name} sends is no sum of gradients of single examples"
    if traces is Traces.ALONG_THE_WAY and not mixture.layer.reads_input:
        return f"under {observation.rule.name} the inputs of an inner layer are not those at the state sent out"
    if mixture.batch_size == 1:
        return "a single example is not told apart from what a defense may have made of it"
    return None
