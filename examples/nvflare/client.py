"""One NVFlare client: a single step of SGD on its own batch; it keeps its examples (the truth) and gradient apart."""

import argparse
from pathlib import Path

import nvflare.client as flare
import torch
from torch.nn.functional import cross_entropy

from seepage.data.sources import load_dataset
from seepage.federated.capture import capture_steps
from seepage.federated.sinks import BundleFolder
from seepage.federated.truth import write_truth
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    options = parser.parse_args()
    flare.init()
    site = str(flare.get_site_name())
    place = int(site.rpartition("-")[2]) - 1  # site-1, site-2
    folder = options.folder / site
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(options.data, normalize="none")
    rows = slice(place * options.batch_size, (place + 1) * options.batch_size)
    batch = PrivateBatch(inputs=dataset.inputs[rows].clone(), labels=dataset.labels[rows].clone())
    write_truth(folder / "truth.safetensors", batch)
    network = build_network(options.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=0)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        network.load_state_dict({name: torch.as_tensor(value) for name, value in received.params.items()})
        optimizer = torch.optim.SGD(network.parameters(), lr=options.learning_rate)
        with capture_steps(optimizer, network, BundleFolder(folder / "gradients")):
            cross_entropy(network(batch.inputs), batch.labels).backward()
            optimizer.step()
        flare.send(flare.FLModel(params=network.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
