"""Findings, run folders and verdicts: could-not-run, broke, failed and found-nothing stay four different things."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.findings import ControlCase, Finding
from seepage.audit.findingsfile import findings_schema, read_findings, write_findings
from seepage.audit.folder import RunFolder
from seepage.audit.record import Verdict, record, verdict
from seepage.audit.run import Audit, Audited
from seepage.audit.scores.scoring import score
from seepage.audit.sweeps.sweep import SweepFolder
from seepage.cli.show import finding_line
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.networks import layers
from seepage.networks.tracing import trace_forward
from seepage.networks.zoo import build_network
from seepage.report.counts import count
from seepage.report.summary import summarize
from seepage.types import INTERRUPTED, Attack, Outcome, PrivateBatch, Reconstruction

PASSED = ControlCase(batch_size=1, rule="fedsgd", outcome="exact", exact=1, recovered=1, passed=True, seconds=0.1)


def audit(attack: Attack | None = None, *, network: str = "mlp:100,50", seed: int = 0, batches: int = 2) -> Audit:
    dataset = load_dataset("digits")
    return Audit(
        network=build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed),
        network_name=network,
        dataset=dataset,
        rule=FedSGD(),
        attack=attack or SPEAR(budget=Budget(seconds=5.0)),
        batch_size=4,
        batches=batches,
        seed=seed,
    )


def described(plan: Audit) -> dict[str, object]:
    return record(plan, command="seepage audit", budget="5s", weights=None)


def findings_of(plan: Audit) -> list[Finding]:
    return [audited.finding for audited in plan()]


def changed(finding: Finding, **fields: object) -> Finding:
    return finding.model_copy(update=fields)


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return findings_of(audit())


def test_findings_round_trip(found: list[Finding], tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.jsonl", found)
    assert read_findings(tmp_path / "findings.jsonl") == found
    assert [path.name for path in tmp_path.iterdir()] == ["findings.jsonl"]


def test_the_schema_names_what_scripts_rely_on(found: list[Finding]) -> None:
    words = (
        "attack network rule defenses threat_model batch_size batch seed outcome obstacles reason certified scores "
        "labels seconds peak_memory_mib device versions"
    )
    keys = set(words.split())
    assert keys <= set(findings_schema()["properties"])
    assert keys <= set(json.loads(found[0].model_dump_json()))
    assert {"psnr", "exact"} <= set(found[0].scores)


@pytest.mark.parametrize("line", ["{", "{}", '{"attack": 3}', "[]"])
def test_a_line_that_is_no_finding_is_refused_by_number(line: str, found: list[Finding], tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    path.write_text(found[0].model_dump_json() + "\n" + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_findings(path)


def test_a_batch_that_leaks_is_exact_certified_and_labelled(found: list[Finding]) -> None:
    for finding in found:
        assert finding.outcome == "exact"
        assert finding.certified == [True] * 4
        assert finding.exact_examples == 4
        assert finding.labels is not None


def test_equal_audits_give_equal_findings(found: list[Finding]) -> None:
    kept = {"outcome", "certified", "labels", "reason", "layer", "batch"}  # scores may differ in their last bits
    again = findings_of(audit())
    assert [one.model_dump(include=kept) for one in again] == [one.model_dump(include=kept) for one in found]
    assert [one.scores["exact"] for one in again] == [one.scores["exact"] for one in found]


def test_a_crash_is_a_row_with_an_error_and_no_outcome(plant: Callable[..., Attack]) -> None:
    for finding in findings_of(audit(plant(breaks=True))):
        assert finding.error == "ZeroDivisionError: a bug"
        assert finding.outcome is None
        assert finding.obstacles == []
        assert not finding.could_run


@pytest.mark.parametrize(
    ("returns", "error"),
    [
        (lambda: None, "TypeError: the attack should return a Reconstruction; found NoneType."),
        (
            lambda: Reconstruction(
                outcome=Outcome.APPROXIMATE,
                inputs=torch.zeros(4, 3),
                certified=torch.zeros(4, dtype=torch.bool),
                reason="A guess.",
            ),
            "ValueError: the attack should return inputs of shape [b, 1, 8, 8]; found [4, 3].",
        ),
    ],
)
def test_what_cannot_be_scored_is_a_fault_of_the_attack(
    plant: Callable[..., Attack], returns: Callable[[], object], error: str
) -> None:
    for finding in findings_of(audit(plant(returns=returns))):
        assert finding.error == error
        assert finding.outcome is None


def test_an_obstacle_is_a_row_without_outcome_or_error() -> None:
    for finding in findings_of(audit(network="mlp:50,50:gelu")):
        assert finding.obstacles
        assert finding.outcome is None
        assert finding.error is None


def test_an_inner_layer_is_scored_on_its_own_inputs() -> None:
    plan = audit(network="mlp:200,200,50", batches=1)
    layers = [name for name, module in plan.network.named_modules() if isinstance(module, torch.nn.Linear)]
    inner = audit(SPEAR(layer=layers[1]), network="mlp:200,200,50", batches=1)
    (finding,) = findings_of(inner)
    assert finding.layer == layers[1]
    assert finding.exact_examples == 4


def test_an_example_that_nothing_was_matched_with_has_no_numbers() -> None:
    plan = audit()
    batch = plan.dataset.batch(torch.tensor([0, 1, 2]))
    one = Reconstruction(
        outcome=Outcome.APPROXIMATE, inputs=batch.inputs[1:2].clone(), certified=torch.ones(1, dtype=torch.bool)
    )
    scored = score(one, batch, plan.dataset, None)
    assert scored.certified == [False, True, False]
    assert scored.scores["exact"] == [False, True, False]
    psnr = scored.scores["psnr"]
    assert isinstance(psnr, list)
    assert [value is None for value in psnr] == [True, False, True]


def test_certified_examples_that_the_batch_never_held_are_counted(found: list[Finding]) -> None:
    """Left over when every original had found its own, they went unseen; a copy of an example is none such."""
    plan = audit()
    batch = plan.dataset.batch(torch.tensor([0, 1]))
    made_up = torch.stack([0.5 * (batch.inputs[0] + batch.inputs[1]), batch.inputs[1] + torch.nan])
    rows = torch.cat([batch.inputs, batch.inputs[:1], made_up])
    one = Reconstruction(outcome=Outcome.EXACT, inputs=rows, certified=torch.ones(5, dtype=torch.bool))
    scored = score(one, batch, plan.dataset, None)
    assert scored.certified == [True, True]
    assert scored.scores["certified_beyond"] == 2.0
    wrong = changed(found[0], scores={**found[0].scores, "certified_beyond": 2.0})
    assert wrong.wrong_certified == 2
    assert "2 of them wrongly" in finding_line(wrong)
    assert count([wrong]).wrong == 2
    silent = changed(wrong, scores={"exact": [False] * wrong.batch_size}, control=PASSED)
    assert verdict([silent], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    assert summarize([silent]).counts.wrong == sum(silent.certified)


def test_a_table_is_scored_by_column(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(
        "age,colour,label\n" + "".join(f"{20 + k},{'red' if k % 2 else 'blue'},{k % 2}\n" for k in range(9))
    )
    dataset = load_dataset(str(path))
    batch = dataset.batch(torch.tensor([0, 1]))
    found = Reconstruction(
        outcome=Outcome.APPROXIMATE, inputs=batch.inputs.clone(), certified=torch.zeros(2, dtype=torch.bool)
    )
    scored = score(found, PrivateBatch(inputs=batch.inputs, labels=batch.labels), dataset, None)
    assert scored.scores["right:colour"] == [True, True]
    assert scored.scores["error:age"] == [0.0, 0.0]
    assert scored.columns["age"] == scored.columns["age (original)"]
    assert scored.scores["exact"] == [True, True]


def test_a_run_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    plan = audit()
    folder = RunFolder.open(tmp_path, described(plan))
    first = next(iter(plan()))
    folder.add(first)
    again = RunFolder.open(tmp_path, described(plan))
    assert again.done == {0}
    assert [audited.finding.batch for audited in plan(done=again.done)] == [1]
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / ".writable").exists()


def test_a_run_of_a_version_that_wrote_less_down_is_not_called_another_run(
    found: list[Finding], tmp_path: Path
) -> None:
    RunFolder.open(tmp_path, {"seed": 0}).add(Audited(finding=found[0], pictures={}))
    with pytest.raises(InputError, match="another version of seepage, which did not write down network_source_sha256"):
        RunFolder.open(tmp_path, {"seed": 0, "network_source_sha256": "1"})
    with pytest.raises(InputError, match="differs in network_source_sha256, seed"):
        RunFolder.open(tmp_path, {"seed": 1, "network_source_sha256": "1"})


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    plan = audit()
    RunFolder.open(tmp_path, described(plan)).add(next(iter(plan())))
    with pytest.raises(InputError, match="seed"):
        RunFolder.open(tmp_path, described(audit(seed=1)))


def test_a_run_that_was_killed_before_its_first_finding_is_in_nobodys_way(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, described(audit()))
    orphan = tmp_path / "artifacts" / "batch-000-spear.safetensors"
    orphan.write_bytes(b"a picture whose finding was never written")
    folder = RunFolder.open(tmp_path, described(audit(seed=1)))
    assert not orphan.exists()
    assert folder.findings == []
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1


def test_but_the_shards_of_a_sweep_are(tmp_path: Path) -> None:
    SweepFolder.open(tmp_path, {"plan": "x"})
    (tmp_path / "shards" / "a.jsonl").write_text("")
    with pytest.raises(InputError, match="another run"):
        RunFolder.open(tmp_path, described(audit()))


def test_a_file_in_the_way_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="--out"):
        RunFolder.open(tmp_path / "run", described(audit()))


def test_broken_and_interrupted_batches_are_tried_again(found: list[Finding], tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, described(audit()))
    broke = changed(found[0], outcome=None, error="x")
    interrupted = changed(found[1], stats={"stopped": INTERRUPTED})
    refused = changed(found[0], batch=2, outcome=None, obstacles=["layer 0: no"])
    folder.findings = [broke, interrupted, refused]
    assert folder.done == {2}


def test_exit_codes_tell_a_leak_from_silence_and_silence_from_no_audit(found: list[Finding]) -> None:
    leak = found[0]
    silent = changed(leak, outcome="failed", scores={"exact": [False] * 4}, certified=[])
    clean = changed(silent, control=PASSED)
    doubtful = changed(silent, control=PASSED.model_copy(update={"passed": False}))
    half = changed(leak, certified=[], scores={"exact": [True, True, False, False]})
    blank = {"scores": {}, "certified": [], "outcome": None}
    assert verdict([clean], batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED
    assert verdict([leak], batches=1, threshold=0.0) is Verdict.LEAKED
    assert verdict([half], batches=1, threshold=0.5) is Verdict.NOTHING_LEAKED
    assert verdict([half], batches=1, threshold=0.49) is Verdict.LEAKED
    assert verdict([changed(leak, obstacles=["no"], **blank)], batches=1, threshold=0.0) is Verdict.NOT_AUDITED
    assert verdict([changed(leak, error="x", **blank)], batches=1, threshold=0.0) is Verdict.NOT_AUDITED
    assert verdict([clean], batches=2, threshold=0.0) is Verdict.NOT_AUDITED
    assert verdict([silent], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    assert verdict([clean, doubtful], batches=2, threshold=0.0) is Verdict.INCONCLUSIVE
    assert verdict([doubtful], batches=2, threshold=0.0) is Verdict.NOT_AUDITED
    assert verdict([doubtful, leak], batches=2, threshold=0.0) is Verdict.LEAKED
    assert verdict([changed(leak, error="x", **blank), leak], batches=2, threshold=0.0) is Verdict.LEAKED
    assert verdict([], batches=1, threshold=0.0) is Verdict.NOT_AUDITED


@pytest.mark.parametrize(
    "cut",
    [
        {"batch_size": 0, "certified": [], "scores": {}},
        {"batch_size": -4, "certified": [], "scores": {}},
        {"certified": [True] * 99},
        {"scores": {"exact": [True]}},
        {"scores": {"rows": [True], "exact": [False] * 4}},
        {"scores": {"exact_vector": 1.0}},
    ],
)
def test_a_finding_that_was_cut_or_edited_is_refused_by_its_line(
    found: list[Finding], tmp_path: Path, cut: dict[str, object]
) -> None:
    lines = [found[0].model_dump(mode="json"), found[1].model_dump(mode="json") | cut]
    (tmp_path / "findings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"findings\.jsonl, line 2, should be"):
        read_findings(tmp_path / "findings.jsonl")


def test_silence_about_a_row_of_its_own_is_inconclusive(found: list[Finding]) -> None:
    size = found[0].batch_size
    silent = changed(found[0], outcome="failed", certified=[], scores={"units_alone": [0] * size}, control=PASSED)
    assert verdict([silent], batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED
    overlooked = changed(silent, scores={"units_alone": [2] + [0] * (size - 1)})
    assert overlooked.overlooked == 1
    assert verdict([overlooked], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    for hidden in ({"rule": "fedavg:epochs=2"}, {"defenses": ["noise:sigma=1"]}):
        assert verdict([changed(overlooked, **hidden)], batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED
        rows = changed(overlooked, scores={"rows": [True] + [False] * (size - 1)}, **hidden)
        assert verdict([rows], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE


def test_a_leak_within_the_threshold_hides_no_rows_beyond_it(found: list[Finding]) -> None:
    size = found[0].batch_size
    one = {"exact": [True] + [False] * (size - 1), "recognisable": [True] + [False] * (size - 1)}
    part = changed(found[0], certified=[False] * size, scores={**one, "rows": [True] * size})
    assert verdict([part], batches=1, threshold=0.0) is Verdict.LEAKED
    assert verdict([part], batches=1, threshold=0.5) is Verdict.INCONCLUSIVE
    assert verdict([part], batches=1, threshold=1.0) is Verdict.NOTHING_LEAKED
    none_left = changed(part, scores={**one, "rows": [True] + [False] * (size - 1)})
    assert verdict([none_left], batches=1, threshold=0.5) is Verdict.NOTHING_LEAKED


def test_silence_about_a_network_that_was_not_understood_is_inconclusive(found: list[Finding]) -> None:
    silent = changed(found[0], outcome="failed", certified=[], scores={}, control=PASSED)
    assert verdict([silent], batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED
    unread = changed(silent, unread=["gru.weight_ih_l0"])
    assert verdict([unread], batches=1, threshold=0.5) is Verdict.INCONCLUSIVE
    assert not unread.conclusive
    assert "gru.weight_ih_l0 was not understood" in summarize([unread]).sentences[0]
    assert verdict([changed(found[0], unread=["gru.weight_ih_l0"])], batches=1, threshold=0.0) is Verdict.LEAKED


def test_a_batch_is_audited_on_one_reading_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = list[int]()
    monkeypatch.setattr(layers, "trace_forward", lambda *of: passes.append(1) or trace_forward(*of))
    assert len(list(audit(SPEAR(budget=Budget(samples=20_000)))())) == 2
    assert len(passes) == 2
