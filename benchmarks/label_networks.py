"""Data and networks of the label tables; reads only ../shared/data (or $SEEPAGE_DATA)."""

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SEEPAGE_DATA", ROOT.parent / "shared" / "data"))
KEPT = Path(tempfile.gettempdir()) / "seepage-label-networks"  # those that take minutes to train


def mnist() -> tuple[Tensor, Tensor]:
    """The test images, [10000, 784] in [0, 1]."""
    images = gzip.decompress((DATA / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DATA / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255
    return torch.from_numpy(x), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def cifar100() -> tuple[Tensor, Tensor]:
    """The test images, [10000, 3, 32, 32], normalised."""
    stored = np.load(DATA / "cifar100/cifar100_test.npz")
    x = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return x, torch.from_numpy(stored["labels"].astype(np.int64))


def shuffled_cifar100() -> tuple[Tensor, Tensor]:
    """The same in an order of their own: the first 7,000 are trained on, the next 2,000 held out."""
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


def cifar10_images() -> tuple[Tensor, Tensor]:
    """[20000, 3, 32, 32], normalised: a train file, then the test file."""
    parts = [np.load(DATA / "cifar10" / name) for name in ("cifar10_train_batch1.npz", "cifar10_test.npz")]
    x = torch.cat([torch.from_numpy(part["images"]) for part in parts]).permute(0, 3, 1, 2).float() / 255
    y = torch.cat([torch.from_numpy(part["labels"].astype(np.int64)) for part in parts])
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), y


def imagenet_photos(count: int) -> Tensor:
    """[count, 3, 224, 224], normalised."""
    paths = sorted((DATA / "imagenet224" / "images").iterdir())[:count]
    stacked = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)


def clusters(classes: int) -> tuple[Tensor, Tensor]:
    """4,000 points around one centre a class."""
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(classes, (4000,), generator=generator)
    centres = torch.rand(classes, 12, generator=generator)
    return centres[y] + 0.2 * torch.randn(4000, 12, generator=generator), y


def lenet5(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """LeNet-5 for 3 x 32 x 32 and 100 classes; 84 features into the last layer."""
    first = [nn.Conv2d(3, 6, 5), activation(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), activation(), nn.AvgPool2d(2)]
    last = [nn.Flatten(), nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 100)]
    return nn.Sequential(*first, *last)


def cnn() -> nn.Sequential:
    """Two convolutions and a layer of 512, for 3 x 32 x 32."""
    convolutions = [nn.Conv2d(3, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 100))


def head(width: int, classes: int) -> nn.Sequential:
    """A last layer alone, with logits of deviation about one."""
    net = nn.Sequential(nn.Identity(), nn.Linear(width, classes))
    nn.init.normal_(net[1].weight, std=width**-0.5)
    return net


def convolutions(classes: int) -> nn.Sequential:
    """Three convolutions with batch norm and a layer of 256, for 3 x 32 x 32."""
    body: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        body += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, classes))


def seeded(seed: int, build: Callable[[], nn.Sequential]) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def fit(net: nn.Sequential, x: Tensor, y: Tensor, steps: int, rate: float = 1e-3) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return net


def accuracy(net: nn.Sequential, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def kept(  # noqa: PLR0917
    name: str, seed: int, build: Callable[[], nn.Sequential], x: Tensor, y: Tensor, epochs: int
) -> nn.Sequential:
    """A network in evaluation mode, trained by Adam on flipped and shifted images; from the folder if it is there."""
    net, path = seeded(seed, build), KEPT / f"{name}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator)[: len(x) // 64 * 64].split(64):
            images = torch.nn.functional.pad(x[chosen], (2, 2, 2, 2))
            top, left = torch.randint(5, (2,), generator=generator).tolist()
            images = images[:, :, top : top + 32, left : left + 32]
            images = images.flip(3) if torch.rand((), generator=generator) < 0.5 else images
            optimizer.zero_grad()
            cross_entropy(net(images), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def memorised(seed: int, x: Tensor, y: Tensor) -> nn.Sequential:
    """The network after 1,500 steps; from the folder if it is there."""
    net, path = seeded(seed, cnn), KEPT / f"cifar100-memorised-{seed}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net
    KEPT.mkdir(parents=True, exist_ok=True)
    torch.save(fit(net, x, y, 1500).state_dict(), path)
    return net


def on_top(net: nn.Sequential, x: Tensor) -> tuple[nn.Sequential, Tensor]:
    """The last layer alone, and what enters it."""
    net.eval()
    with torch.no_grad():
        embeddings = torch.cat([net[:-1](part) for part in x.split(50)])
    return nn.Sequential(nn.Identity(), net[-1]), embeddings
