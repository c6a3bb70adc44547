"""A server that captures, and clients that keep their own examples (the truth) and gradients apart."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.nn.functional import cross_entropy

from seepage.data.sources import load_dataset
from seepage.federated.capture import capture_steps
from seepage.federated.flower import capture_strategy
from seepage.federated.sinks import BundleFolder, Known
from seepage.federated.truth import write_truth
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch

BATCH = 8
SHAPE, CLASSES = (1, 8, 8), 10

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    rate = float(context.run_config["learning-rate"])
    folder = Path(str(context.run_config["folder"]))
    network = build_network("mlp:200", input_shape=SHAPE, classes=CLASSES, seed=0)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    strategy = capture_strategy(  # the one line
        strategy,
        BundleFolder(folder / "captures"),
        learning_rate=rate,
        local_steps=1,
        rule="sgd",
        known=Known(input_shape=SHAPE, classes=CLASSES),
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(network.state_dict()),
        num_rounds=1,
        train_config=ConfigRecord({"learning-rate": rate, "folder": str(folder)}),
    )


@client.train()
def train(message: Message, context: Context) -> Message:
    place = int(context.node_config["partition-id"])
    told = message.content["config"]
    folder = Path(str(told["folder"])) / f"client-{place}"
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset("digits", normalize="none")
    rows = slice(place * BATCH, (place + 1) * BATCH)
    batch = PrivateBatch(inputs=dataset.inputs[rows].clone(), labels=dataset.labels[rows].clone())
    write_truth(folder / "truth.safetensors", batch)
    network = build_network("mlp:200", input_shape=SHAPE, classes=CLASSES, seed=0)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=float(told["learning-rate"]))
    with capture_steps(optimizer, network, BundleFolder(folder / "gradients")):
        cross_entropy(network(batch.inputs), batch.labels).backward()
        optimizer.step()
    content = {"arrays": ArrayRecord(network.state_dict()), "metrics": MetricRecord({"num-examples": BATCH})}
    return Message(RecordDict(content), reply_to=message)
