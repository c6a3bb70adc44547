"""DP-SGD (Abadi et al., 2016): every example's gradient clipped, noise on their sum."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from seepage.errors import InputError
from seepage.federated.client import BatchNorm, chance, client_copy, demand
from seepage.federated.wording import write
from seepage.networks.calling import call_with
from seepage.types import GradientUpdate, PrivateBatch, Traces

__all__ = ["DPSGD"]

_STABILITY = 1e-6  # added to norms before dividing, as Opacus does


@dataclass(frozen=True, slots=True, kw_only=True)
class DPSGD:
    """One step of DP-SGD: gradients of single examples, clipped, summed, noised, divided by the batch size.

    The clipping is of each example's own gradient over all parameters at once (flat). The batch is the one given:
    that a real client draws it by Poisson sampling matters to :meth:`epsilon`, and the divisor there is the expected
    batch size.

    Args:
        clip: largest length of one example's gradient, above 0.
        noise: noise multiplier: the standard deviation on the sum is ``noise * clip``; 0 clips only.
        batch_norm: ``eval`` runs batch norm on its running statistics; on a batch's own it has no gradient of single
            examples, and is refused.
        chunk: how many examples' gradients are held at once; all of them if ``None``.

    Reference:
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1.
    """

    clip: float = 1.0
    noise: float = 1.0
    batch_norm: BatchNorm = BatchNorm.AS_SENT
    chunk: int | None = None

    def __post_init__(self) -> None:
        demand("clip", self.clip, least=0, strictly=True)
        demand("noise", self.noise, least=0)
        if self.chunk is not None:
            demand("chunk", self.chunk, least=1)

    @property
    def name(self) -> str:
        """``dpsgd``, with the options that are not at their default."""
        return write("dpsgd", self)

    @property
    def is_gradient(self) -> bool:
        """False: each example's gradient was scaled by a number of its own."""
        return False

    @property
    def traces(self) -> Traces:
        """Clipping scales what one example leaves; noise covers it."""
        if self.noise > 0:
            return Traces.NONE
        return Traces.AT_START if self.batch_norm is BatchNorm.AS_SENT else Traces.ALONG_THE_WAY

    def as_gradient(
        self,
        update: GradientUpdate,
        *,
        network: nn.Module,  # noqa: ARG002
        batch_size: int | None = None,  # noqa: ARG002
    ) -> GradientUpdate:
        """The update itself: the mean of the clipped gradients, and noise."""
        return update

    def rounding(self, parameter: Tensor, *, batch_size: int | None = None) -> float:  # noqa: ARG002
        """Zero: nothing but gradients was rounded."""
        return 0.0

    def deviation(self, *, batch_size: int | None = None) -> float | None:
        """``noise * clip`` over the batch size; ``None`` where that is unknown and noise is added."""
        if self.noise == 0:
            return 0.0
        return None if batch_size is None else self.noise * self.clip / batch_size

    def epsilon(self, *, sample_rate: float, steps: int, delta: float) -> float:
        """What ``steps`` steps on Poisson samples cost: epsilon at ``delta``, from Opacus' RDP accountant.

        Args:
            sample_rate: probability that an example is in a step's batch, in (0, 1].
            steps: how many steps, at least 1.
            delta: in (0, 1).

        Returns:
            infinity without noise.

        Raises:
            InputError: Opacus is not installed (``pip install 'seepage[dp]'``), or an argument is out of range.
        """
        demand("sample_rate", sample_rate, least=0, strictly=True, most=1)
        demand("steps", steps, least=1)
        demand("delta", delta, least=0, strictly=True, most=1)
        if self.noise == 0:
            return float("inf")
        try:
            from opacus.accountants import RDPAccountant
        except ImportError as error:
            raise InputError(
                "`epsilon` needs Opacus, which should be installed by: pip install 'seepage[dp]'; found none."
            ) from error
        accountant = RDPAccountant()
        accountant.history = [(self.noise, sample_rate, steps)]
        return float(accountant.get_epsilon(delta))

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate:
        """Of every trainable parameter, keyed as ``named_parameters()``.

        Raises:
            InputError: a batch norm runs on the batch's statistics, so that no example has a gradient of its own.
        """
        client = client_copy(network, self.batch_norm)
        for name, module in client.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
                raise InputError(
                    f"dpsgd: layer {name} should not run on the batch's statistics: one example has no gradient of "
                    "its own there; use batch_norm=eval or another norm. Found batch norm in training mode."
                )
        with chance(generator), sdpa_kernel(SDPBackend.MATH):  # the fast attention kernels cannot be batched
            total = self._clipped_sum(client, batch)
        spread = self.noise * self.clip
        sent = {}
        for name, value in total.items():
            draw = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=generator.device)
            sent[name] = (value + spread * draw.to(value.device)) / len(batch)
        return GradientUpdate(sent)

    def _clipped_sum(self, client: nn.Module, batch: PrivateBatch) -> dict[str, Tensor]:
        trainable = {name: value.detach() for name, value in client.named_parameters() if value.requires_grad}

        def loss(free: dict[str, Tensor], example: Tensor, label: Tensor) -> Tensor:
            logits = call_with(client, free, example[None])
            return cross_entropy(logits, label[None])

        total = {name: torch.zeros_like(value) for name, value in trainable.items()}
        gradients_of = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
        size = self.chunk or len(batch)
        for inputs, labels in zip(torch.split(batch.inputs, size), torch.split(batch.labels, size), strict=True):
            each: dict[str, Tensor] = gradients_of(trainable, inputs, labels)  # [chunk, *parameter]
            lengths = torch.stack([value.flatten(1).norm(dim=1) for value in each.values()]).norm(dim=0)
            factors = (self.clip / (lengths + _STABILITY)).clamp(max=1.0)  # [chunk]
            for name, value in each.items():
                total[name] += torch.einsum("b,b...->...", factors, value)
        return total
