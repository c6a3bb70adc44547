"""The command line as a stranger uses it: exit codes, one sentence for bad input, nothing half-written."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seepage.audit.findingsfile import read_findings
from seepage.cli import main
from seepage.networks.weights import save_weights
from seepage.networks.zoo import build_network


def seepage(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def audit(tmp_path: Path, *arguments: str, data: str = "digits", network: str = "mlp:100") -> int:
    return seepage("audit", "--data", data, "--network", network, "--out", str(tmp_path / "run"), *arguments)


def npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def images(count: int = 20, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "findings.jsonl").exists()
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_leak_ends_with_1_and_leaves_findings_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(tmp_path, "--batch-size", "4", "--batches", "2") == 1
    findings = read_findings(tmp_path / "run" / "findings.jsonl")
    assert [finding.outcome for finding in findings] == ["exact", "exact"]
    assert all(finding.scores["exact"] == [True] * 4 and finding.certified == [True] * 4 for finding in findings)
    assert str(tmp_path / "run" / "report.html") in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["complete"] is True
    assert not list(tmp_path.rglob("*.partial"))


def test_rule_and_defenses_are_written_as_they_read_back(tmp_path: Path) -> None:
    given = ["--rule", "fedavg:lr=0.5", "--defense", "clip:9", "--defense", "drop:3", "--dtype", "float64"]
    assert audit(tmp_path, "--batch-size", "3", *given) == 1
    (finding,) = read_findings(tmp_path / "run" / "findings.jsonl")
    assert (finding.rule, finding.defenses) == ("fedavg:lr=0.5", ["clip:norm=9.0", "drop:tensors=3"])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["rule"], record["defenses"]) == (finding.rule, finding.defenses)


def test_dropped_layers_end_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "--defense", "drop:*") == 3
    assert "holds no gradient" in capsys.readouterr().out


def test_a_threshold_lets_a_share_pass(tmp_path: Path) -> None:
    assert audit(tmp_path, "--batch-size", "4", "--threshold", "1.0") == 0


def test_what_cannot_be_attacked_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "--attack", "spear", network="mlp:50:gelu") == 3
    assert "could not be attacked" in capsys.readouterr().out


@pytest.mark.parametrize("attack", ["auto", "ig", "labels"])
def test_an_attack_that_lacks_the_batch_size_was_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    """Its control of one example, whose size tells itself, passed: the run ended with 0."""
    assert audit(tmp_path, "--batch-size", "8", "--attack", attack, "--budget", "1s", network="lenet") == 3
    assert "could not be attacked" in capsys.readouterr().out


def test_an_attack_that_finds_less_than_the_threshold_ends_with_0_and_does_not_say_safe(tmp_path: Path) -> None:
    silent = ("--batch-size", "60", "--budget", "2000")
    assert audit(tmp_path, *silent) == 1  # the update holds an example as a row of its own
    assert audit(tmp_path, *silent, "--threshold", "0.1") == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "not proof that nothing leaks" in page


def test_the_same_command_takes_up_its_run_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(tmp_path, "--batch-size", "3") == 1
    first = (tmp_path / "run" / "findings.jsonl").read_text()
    assert audit(tmp_path, "--batch-size", "3") == 1
    assert (tmp_path / "run" / "findings.jsonl").read_text() == first
    capsys.readouterr()
    assert audit(tmp_path, "--batch-size", "4") == 2
    assert "batch_size" in capsys.readouterr().err
    assert (tmp_path / "run" / "findings.jsonl").read_text() == first


def test_a_redacted_report_shows_no_picture(tmp_path: Path) -> None:
    audit(tmp_path, "--batch-size", "3")
    assert "data:image" in (tmp_path / "run" / "report.html").read_text()
    assert seepage("report", str(tmp_path / "run"), "--redact") == 0
    assert "data:image" not in (tmp_path / "run" / "report.html").read_text()


def test_weights_are_loaded(tmp_path: Path) -> None:
    save_weights(build_network("mlp:100", input_shape=(1, 8, 8), classes=10, seed=7), tmp_path / "w.safetensors")
    assert audit(tmp_path, "--batch-size", "3", "--weights", str(tmp_path / "w.safetensors")) == 1


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, data=str(tmp_path / "none.npz")) == 2
    refused(tmp_path, capsys, "none.npz")


def test_a_truncated_npz_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(npz(tmp_path / "cut.npz", images=images(), labels=np.zeros(20, np.int64)))
    source.write_bytes(source.read_bytes()[:-300])
    assert audit(tmp_path, data=str(source)) == 2
    refused(tmp_path, capsys, "cut.npz")


def test_a_pickled_npz_is_never_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = npz(tmp_path / "pickled.npz", images=np.array([{"a": 1}], dtype=object), labels=np.zeros(1, np.int64))
    assert audit(tmp_path, data=source) == 2
    refused(tmp_path, capsys, "pickled.npz")


def test_nan_in_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = images().astype(np.float32) / 255
    values[3, 2, 2] = np.nan
    assert audit(tmp_path, data=npz(tmp_path / "nan.npz", images=values, labels=np.zeros(20, np.int64))) == 2
    refused(tmp_path, capsys, "nan.npz", "NaN")


def test_labels_out_of_range_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = npz(tmp_path / "labels.npz", images=images(), labels=np.full(20, -2, np.int64))
    assert audit(tmp_path, data=source) == 2
    refused(tmp_path, capsys, "labels.npz", "-2")


def test_a_broken_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "folder" / label).mkdir(parents=True)
        Image.fromarray(images(1, (8, 8, 3))[0]).save(tmp_path / "folder" / label / "a.png")
    (tmp_path / "folder" / "dog" / "b.png").write_bytes(b"not a picture")
    assert audit(tmp_path, data=str(tmp_path / "folder")) == 2
    refused(tmp_path, capsys, "b.png")


def test_a_truncated_idx_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = np.array([0x803, 20, 8, 8], dtype=">u4").tobytes()
    (tmp_path / "x-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images(5).tobytes()))
    assert audit(tmp_path, data=str(tmp_path / "x-images-idx3-ubyte.gz")) == 2
    refused(tmp_path, capsys, "x-images-idx3-ubyte.gz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "mlp:0"], "mlp:0"),
        (["--network", "transformer9"], "transformer9"),
        (["--network", "no_such_module:make"], "no_such_module"),
        (["--batch-size", "5000"], "batch_size"),
        (["--budget", "soon"], "--budget"),
        (["--budget", "1e999"], "--budget"),
        (["--budget", "1e400s"], "--budget"),
        (["--attack", "magic"], "--attack"),
        (["--rule", "fedmagic"], "--rule"),
        (["--rule", "fedavg:lr=fast"], "lr"),
        (["--rule", "sum:clients=9"], "clients"),
        (["--defense", "sign", "--defense", "noise:loud"], "sigma"),
        (["--defense", "drop:no.such"], "no.such"),
        (["--layer", "no.such"], "no.such"),
        (["--device", "abacus"], "--device"),
        (["--normalize", "1:2:3"], "normalize"),
        (["--weights", "none.safetensors"], "none.safetensors"),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert audit(tmp_path, *arguments) == 2
    refused(tmp_path, capsys, words)


def test_a_network_of_another_shape_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynets.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(7, 10)\n")
    monkeypatch.chdir(tmp_path)
    assert audit(tmp_path, network="mynets:make") == 2
    refused(tmp_path, capsys, "8, 8")


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("a file in the way")
    assert audit(tmp_path) == 2
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "run").read_text() == "a file in the way"


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seepage("report", str(tmp_path)) == 2
    assert "findings.jsonl" in capsys.readouterr().err


def test_inspect_shows_layers_and_theory(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        seepage(
            "inspect", "--network", "mlp:200,200", "--input-shape", "3x32x32", "--classes", "10", "--batch-size", "20"
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "possible" in said
    assert "4.8e+06" in said


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert seepage("schema") == 0
    assert "certified" in json.loads(capsys.readouterr().out)["properties"]


def test_a_seed_repeats_a_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert (
            seepage(
                "audit", "--data", "photos", "--network", "mlp:200", "--batch-size", "4", "--out", str(tmp_path / name)
            )
            == 1
        )
    first, second = (read_findings(tmp_path / name / "findings.jsonl")[0] for name in ("a", "b"))
    # A sum's order, and so its last bits, may depend on how memory was aligned: sizes of errors apart, all is equal.
    numbers = {"seconds", "peak_memory_mib", "scores", "stats"}
    assert first.model_dump(exclude=numbers) == second.model_dump(exclude=numbers)
    assert first.scores["exact"] == second.scores["exact"]
    assert first.stats["samples"] == second.stats["samples"]


def test_a_fault_of_seepage_is_never_the_exit_code_of_a_leak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("seepage.audit.run.score", broken)
    assert audit(tmp_path, "--batch-size", "3") == 3
    assert "planted" in capsys.readouterr().err
    assert not (tmp_path / "run" / "findings.jsonl").exists()


def test_a_full_disk_is_told_as_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed for a fault of seepage by which nothing was learned, whatever the batches before had shown."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seepage.audit.folder.write_findings", full)
    assert audit(tmp_path) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path.name}/run could not be written: No space left on device. What was found before is kept" in said
    assert "fault of seepage" not in said


def test_names_that_are_no_text_are_told_and_written(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for number in range(4):
        image = folder / "data" / f"{chr(0xDCFF)}{number % 2}" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images(4)[number]).save(image)
    command = [sys.executable, "-m", "seepage", "audit", "--data", folder / "data", "--network", "mlp:60"]
    run = subprocess.run(
        [*command, "--batch-size", "2", "--budget", "5s", "--out", folder / "run"], capture_output=True, check=False
    )
    assert run.returncode == 1, run.stderr
    assert os.fsencode(folder / "run" / "report.html") in run.stdout
    assert "caf\\xe9" in json.loads((folder / "run" / "run.json").read_text(encoding="utf8"))["data"]


def test_a_fault_that_cannot_even_be_shown_is_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("seepage.audit.run.score", broken)
    monkeypatch.setattr("rich.console.Console.print_exception", broken)
    assert audit(tmp_path) == 3


def test_a_batch_that_is_too_large_is_given_up_long_before_the_budget_ends(tmp_path: Path) -> None:
    # With the default budget of ten minutes. What is a leak is a row of the update that shows a digit.
    assert audit(tmp_path, "--batch-size", "40", network="mlp:60") == 1
    (finding,) = read_findings(tmp_path / "run" / "findings.jsonl")
    assert finding.stats["rows"] == 1
    assert "nothing more to propose" in finding.reason
    assert "may be too large" in finding.reason
    assert "budget" not in finding.reason


def test_labels_are_restored_by_name_and_the_server_may_be_granted_the_batch_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(tmp_path / "few", "--attack", "labels", "--batch-size", "4") == 1
    assert "4 of 4 labels certified" in capsys.readouterr().out
    assert audit(tmp_path / "many", "--attack", "pooled", "--batch-size", "32") == 3
    assert "--knows batch-size" in capsys.readouterr().out
    assert audit(tmp_path / "told", "--attack", "pooled", "--batch-size", "32", "--knows", "batch-size") == 1
    [finding] = read_findings(tmp_path / "told" / "run" / "findings.jsonl")
    assert "batch_size" in finding.threat_model
    assert finding.scores["exact_vector"] == 1.0


def test_unknown_knowledge_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "--knows", "everything") == 2
    refused(tmp_path, capsys, "--knows", "everything", "batch-size")


def test_inspect_says_what_the_last_layer_tells_of_labels(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("--network", "mlp:100", "--input-shape", "64")
    assert seepage("inspect", *shape, "--classes", "10", "--batch-size", "4") == 0
    assert "within" in capsys.readouterr().out
    assert seepage("inspect", *shape, "--classes", "10", "--batch-size", "40") == 0
    assert "--knows batch-size" in capsys.readouterr().out


def test_a_wrong_option_leaves_no_folder_that_the_right_one_trips_over(tmp_path: Path) -> None:
    plan = ("audit", "--data", "digits", "--network", "mlp:60", "--batch-size", "2", "--out", str(tmp_path / "run"))
    assert seepage(*plan, "--defense", "drop:nothing-of-this-name") == 2
    assert not (tmp_path / "run").exists()
    assert seepage(*plan) == 1
    assert seepage(*plan, "--batches", "2") == 2  # this one holds a finding: nothing is lost


def test_other_weights_of_the_same_name_are_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gate that is asked again after training would otherwise show the verdict on the weights before."""
    file = tmp_path / "w.safetensors"
    for seed, code in ((0, 1), (0, 1), (1, 2)):
        save_weights(build_network("mlp:100", input_shape=(1, 8, 8), classes=10, seed=seed), file)
        assert audit(tmp_path, "--batch-size", "2", "--weights", str(file)) == code
    assert "it differs in network_sha256" in capsys.readouterr().err


def test_a_network_whose_source_was_changed_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = (
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))\n"
    )
    for text, code in ((source, 1), (source, 1), (source.replace("ReLU", "GELU"), 2)):
        (tmp_path / "my_own_net.py").write_text(text)
        assert audit(tmp_path, "--batch-size", "2", network="my_own_net:make") == code
    assert "it differs in network_source_sha256" in capsys.readouterr().err


def started_with_a_torch_that(tmp_path: Path, does: str) -> subprocess.Popen[str]:
    # A shell has what it runs in the background ignore Ctrl-C, and so have these tests' children.
    heeding = (
        "import runpy, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "runpy.run_module('seepage', run_name='__main__')\n"
    )
    (tmp_path / "torch.py").write_text(does, encoding="utf8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", heeding, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_ctrl_c_while_torch_is_imported_ends_with_130_and_a_sentence(tmp_path: Path) -> None:
    # Compiled modules turn the exception into others, so that a clause for it would not do.
    sleeps = (
        "import time\nprint('importing', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise ImportError('initialization failed')\n"
    )
    with started_with_a_torch_that(tmp_path, sleeps) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "seepage: interrupted.\n")
    assert process.returncode == 130


def test_ctrl_c_where_nothing_is_kept_says_so_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seepage.cli.app.inspect_network", interrupted)
    assert seepage("inspect", "--network", "mlp:8", "--input-shape", "4", "--classes", "2") == 130
    assert capsys.readouterr().err == "seepage: interrupted.\n"


def test_an_installation_that_is_broken_is_no_leak(tmp_path: Path) -> None:
    with started_with_a_torch_that(tmp_path, "raise ImportError('libtorch.so: no such file')\n") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "libtorch.so" in said
    assert "says nothing of the data" in said
