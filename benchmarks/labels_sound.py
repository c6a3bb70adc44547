"""Is any wrong label ever certified? 2,000 batches of small networks, and 2,000 with near copies; adds to labels.*.

Options: --only soundness,near; --out. Made-up data; each row is written as soon as it is there.
"""

from collections.abc import Callable

import torch
from label_networks import clusters, fit, seeded
from label_options import Keep, arguments, run
from label_tables import add, mean_rows, no_sums, observe, score
from torch import Tensor, nn

from seepage.attacks.labels.exactlabels import ExactLabels


def soundness(keep: Keep) -> None:
    """2,000 batches of small networks at all stages of training, half of them without bias."""
    x, y = clusters(30)
    for activation in (nn.ReLU, nn.SiLU, nn.LeakyReLU, nn.Tanh):
        for steps in (0, 40, 200, 600):
            sums, method = no_sums(), f"exact, {activation.__name__}, {steps} steps"
            for index in range(5):
                net = seeded(index, lambda a=activation, b=index % 2 == 0: small(a, bias=b))
                net = fit(net, x[:2000], y[:2000], steps, rate=1e-2)
                for batch in range(25):
                    generator = torch.Generator().manual_seed(1000 * index + batch)
                    examples = 1 + int(torch.randint(14, (), generator=generator))
                    chosen = 2000 + torch.randperm(2000, generator=generator)[:examples]
                    seen = observe(net, x[chosen], y[chosen], (x.amin(), x.amax()), known=batch % 2 == 0)
                    add(sums, method, score(ExactLabels(), seen, y[chosen]))
            title = "Soundness: MLP clusters C=30, K=1..14, known in half, networks 1 and 3 without bias"
            keep(mean_rows(title, sums, 5, 25))


def near(keep: Keep) -> None:
    """Batches in which some examples are nearly the same: copies moved by 1e-4 to 0.1, labels the same or not.

    Labels of an unknown batch size are told up to a multiple: a batch of pairs is no error then.
    """
    for classes in (2, 3, 10, 30):
        x, y = clusters(classes)
        for steps in (0, 300):
            sums, method = no_sums(), f"exact, C={classes}, {steps} steps"
            for index in range(10):
                activation = (nn.ReLU, nn.SiLU)[index % 2]
                net = seeded(index, lambda a=activation, c=classes: small(a, bias=True, classes=c))
                net = fit(net, x[:2000], y[:2000], steps, rate=1e-2)
                for batch in range(25):
                    inputs, labels = _with_near_copies((x[2000:], y[2000:]), 1000 * index + batch)
                    seen = observe(net, inputs, labels, (x.amin(), x.amax()), known=batch % 2 == 0)
                    add(sums, method, score(ExactLabels(), seen, labels))
            title = "Soundness: near copies in batches of 2 to 8, MLP clusters, known in half"
            keep(mean_rows(title, sums, 10, 25))


def _with_near_copies(data: tuple[Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """2 to 8 examples, each by itself, a near copy of one before, or a near copy with another label."""
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    examples = 2 + int(torch.randint(7, (), generator=generator))
    chosen = torch.randperm(len(x), generator=generator)[:examples]
    inputs, labels = x[chosen].clone(), y[chosen].clone()
    pairs = bool(torch.rand((), generator=generator) < 0.2)  # all of them twice
    eps = 10 ** (-4 + 3 * torch.rand((), generator=generator))
    for i in range(1, examples):
        copied = i - 1 if pairs and i % 2 else int(torch.randint(i, (), generator=generator))
        if bool(i % 2) if pairs else bool(torch.rand((), generator=generator) < 0.4):
            inputs[i] = inputs[copied] + eps * torch.randn(x.shape[1], generator=generator)
            same = pairs or bool(torch.rand((), generator=generator) < 0.7)
            labels[i] = labels[copied] if same else labels[i]
    return inputs, labels


def small(activation: type[nn.Module], *, bias: bool, classes: int = 30) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 48), activation(), nn.Linear(48, classes, bias=bias))


SECTIONS: dict[str, Callable[[Keep], None]] = {
    "soundness": soundness,
    "near": near,
}


if __name__ == "__main__":
    run(SECTIONS, arguments(__doc__, SECTIONS).parse_args())
