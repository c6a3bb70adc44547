"""Audit a network of your own from Python: what does one update give away?"""

from seepage.attacks.spear import SPEAR
from seepage.audit.run import Audit
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network

dataset = load_dataset("digits")
network = build_network("mlp:200,100", input_shape=dataset.input_shape, classes=dataset.classes, seed=0)
audit = Audit(
    network=network, network_name="mlp:200,100", dataset=dataset, rule=FedSGD(), attack=SPEAR(), batch_size=8, batches=2
)
for audited in audit():
    finding = audited.finding
    print(f"batch {finding.batch}: {finding.outcome}, {sum(finding.certified)} of {finding.batch_size} certified")
    print(f"  labels {finding.labels}, PSNR {[round(value) for value in finding.scores['psnr']]} dB")
