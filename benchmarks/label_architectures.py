"""The deep networks of the label tables: VGG as it is and at half its width, ResNet-18 and ResNet-50."""

from collections import OrderedDict

from torch import Tensor, nn

from seepage.networks.architectures import resnet18

__all__ = ["half_vgg16", "resnet50", "small_resnet18", "vgg"]

_VGG = {  # channels of each block between two poolings, by the number of layers with weights
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def vgg(layers: int) -> nn.Sequential:
    """VGG-11, 13, 16 or 19 without batch norm for 3 x 32 x 32 and 100 classes, with two layers of 4,096."""
    body: list[nn.Module] = []
    before = 3
    for block in _VGG[layers]:
        for width in block:
            body += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        body.append(nn.MaxPool2d(2))
    top = [nn.Flatten(), nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 100)]
    return nn.Sequential(*body, *top)


def half_vgg16() -> nn.Sequential:
    """VGG-16 with batch norm and half its channels, for 3 x 32 x 32 and 100 classes; 512 features."""
    body: list[nn.Module] = []
    before = 3
    for block in ((32, 32), (64, 64), (128,) * 3, (256,) * 3, (256,) * 3):
        for width in block:
            body += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        body.append(nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(before, 512), nn.ReLU(), nn.Linear(512, 100))


def small_resnet18() -> nn.Sequential:
    """ResNet-18 with the 7 x 7 stem of stride 2 and pooling, on 32 x 32 pixels."""
    net = resnet18(3, 100)
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stem, *list(net)[1:])


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        first = [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        second = [nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        third = [nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.body = nn.Sequential(*first, *second, *third)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = nn.functional.relu(self.body(inputs) + self.shortcut(inputs))
        return outputs


def resnet50(classes: int) -> nn.Sequential:
    """ResNet-50 for photographs (He et al. 2016): a 7 x 7 stem and pooling, then 3, 4, 6 and 3 bottleneck blocks."""
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
    }
    before = 64
    for number, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        stage = []
        for block in range(blocks):
            stage.append(_Bottleneck(before, width, 2 if block == 0 and number > 1 else 1))
            before = 4 * width
        parts[f"stage{number}"] = nn.Sequential(*stage)
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(2048, classes)}
    return nn.Sequential(OrderedDict(parts))
