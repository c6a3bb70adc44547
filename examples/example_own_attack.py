"""An attack of your own: one class, audited like those that come with seepage.

From the command line, in this folder: seepage audit --data digits --network mlp:200,100 --batch-size 1
--attack example_own_attack:RowRatios
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import seepage
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network
from seepage.types import Observation, Obstacle, Outcome, Progress, Reconstruction, go_on


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRatios:
    """A row of the first layer's gradient over its bias gradient: a mean of the inputs, weighted by their errors.

    With one example in the batch, or one alone at a unit, that is the example (Phong et al., IEEE TIFS 2018).

    Args:
        weight, bias: names of the first layer's parameters.
    """

    weight: str = "1.weight"
    bias: str = "1.bias"

    @property
    def name(self) -> str:
        return "row-ratios"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        update = observation.latest.update
        missing = [name for name in (self.weight, self.bias) if name not in update]
        return [Obstacle(where=name, reason="the update holds no such tensor.") for name in missing]

    def __call__(  # it draws nothing and ends at once
        self,
        observation: Observation,
        *,
        generator: torch.Generator,  # noqa: ARG002
        progress: Progress = go_on,  # noqa: ARG002
    ) -> Reconstruction:
        update = observation.latest.update
        weight, bias = update[self.weight], update[self.bias]
        strongest = int(bias.abs().argmax())
        if float(bias[strongest]) == 0:
            return Reconstruction(outcome=Outcome.FAILED, reason="Every bias gradient is zero.")
        guess = (weight[strongest] / bias[strongest]).reshape(1, *observation.input_shape)
        return Reconstruction(
            outcome=Outcome.APPROXIMATE,  # nothing here proves that one example alone is in that row
            inputs=guess,
            certified=torch.zeros(1, dtype=torch.bool),
            reason="The row of the unit with the largest bias gradient, over that bias gradient.",
            stats={"unit": strongest},
        )


if __name__ == "__main__":
    digits = load_dataset("digits")
    network = build_network("mlp:200,100", input_shape=digits.input_shape, classes=digits.classes, seed=0)
    for size in (1, 4):
        private = digits.batch(torch.arange(size))
        print(f"{size}:", seepage.audit(network, private, attack=RowRatios()))
