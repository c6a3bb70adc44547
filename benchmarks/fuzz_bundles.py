"""Ten thousand mutated bundles read: no crash, no hang, no false accept. Run: python benchmarks/fuzz_bundles.py

Half of the mutants are damaged bytes; of the other half the header or its entries were changed on purpose, some with
the seal made anew. A false accept is a mutant with the old seal that is read as something other than the original, or
one with a new seal that is read although a number is not finite.
"""

import argparse
import json
import random
import struct
import tempfile
import time
from pathlib import Path

import torch

from seepage.errors import InputError
from seepage.federated.sealed import write_sealed
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind, read_capture, write_capture

_WORDS = [
    "",
    "NaN",
    "x" * 2000,
    -1,
    0,
    1,
    2**63,
    1e308,
    True,
    None,
    [],
    {},
    [0],
    [-1, 4],
    "F32",
    "pair",
    "uphill",
    "\0",
]


def original() -> Capture:
    generator = torch.Generator().manual_seed(0)
    state = {"0.weight": torch.randn(5, 4, generator=generator), "0.bias": torch.randn(5, generator=generator)}
    header = CaptureHeader(
        kind=UpdateKind.GRADIENT,
        sign=Sign.UPHILL,
        rule="fedsgd",
        learning_rate=0.1,
        round=3,
        input_shape=(4,),
        classes=5,
    )
    return Capture(header=header, update=state, before=state, buffers={"count": torch.tensor(3)})


def bytes_mutated(whole: bytes, chance: random.Random) -> bytes:
    content = bytearray(whole)
    kind = chance.randrange(6)
    place = chance.randrange(len(content))
    if kind == 0:
        content[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[place : place + chance.randrange(1, 40)] = chance.randbytes(chance.randrange(40))
    elif kind == 2:
        del content[place:]
    elif kind == 3:
        content += chance.randbytes(chance.randrange(1, 100))
    elif kind == 4:
        content[:8] = struct.pack("<Q", chance.choice([0, 1, 2, len(content), 2**31, 2**63, chance.randrange(2000)]))
    else:
        other = chance.randrange(len(content))
        content[place : place + 30], content[other : other + 30] = (
            content[other : other + 30],
            content[place : place + 30],
        )
    return bytes(content)


def header_mutated(whole: bytes, chance: random.Random) -> bytes:
    """The outer header changed at one place, or its text doubled, nested or cut; tensors as they were."""
    length = struct.unpack("<Q", whole[:8])[0]
    table, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    name = chance.choice(list(table))
    entry = table[name]
    kind = chance.randrange(4)
    if kind == 0:
        entry[chance.choice(list(entry))] = chance.choice(_WORDS)
    elif kind == 1:
        table[chance.choice(["", "x", "update/", "../../etc/passwd", "update/0.bias"])] = chance.choice(
            [entry, *_WORDS]
        )
    elif kind == 2:
        del table[name]
    text = json.dumps(table).encode()
    if kind == 3:
        text = chance.choice([text[:-1] + b"," + text[1:], b"[" * 50_000, b"9" * 6000, text.replace(b"4", b"1e999")])
    return struct.pack("<Q", len(text)) + text + data


def resealed(path: Path, capture: Capture, chance: random.Random) -> bool:
    """A well-formed file with a new seal and one lie inside; returns whether a reader has to refuse it."""
    fields = json.loads(capture.header.model_dump_json())
    tensors = {f"update/{name}": tensor.clone() for name, tensor in capture.update.items()}
    tensors |= {f"before/{name}": tensor.clone() for name, tensor in capture.before.items()}
    kind = chance.randrange(4)
    if kind == 0:
        fields[chance.choice(list(fields))] = chance.choice([-1, "9", [], {}, -1e9, "x" * 300])
        fields.pop("versions") if fields["versions"] == {} else None
    elif kind == 1:
        fields["kind"] = chance.choice(["pair", "sum", "", "delta"])
    elif kind == 2:
        tensors["update/0.bias"] = torch.ones(chance.choice([1, 2, 6, 50]))
    else:
        tensors[chance.choice(["after/0.bias", "update", "truth/inputs", "update/extra"])] = torch.ones(1)
    write_sealed(path, form="seepage-capture", header=json.dumps(fields), tensors=tensors)
    return kind != 0


def same(found: Capture, capture: Capture) -> bool:
    groups = ("update", "before", "after", "buffers")
    return found.header == capture.header and all(
        getattr(found, group).keys() == getattr(capture, group).keys()
        and all(torch.equal(tensor, getattr(capture, group)[name]) for name, tensor in getattr(found, group).items())
        for group in groups
    )


def fuzz(files: int, seed: int, folder: Path) -> dict[str, float]:
    """How many were refused, read as the same, wrongly accepted; and the slowest read in seconds."""
    chance, capture = random.Random(seed), original()
    write_capture(folder / "original", capture)
    whole = (folder / "original").read_bytes()
    counts = {"refused": 0.0, "same": 0.0, "new_header": 0.0, "false_accepts": 0.0, "slowest": 0.0}
    for index in range(files):
        path, has_to_fail, forged = folder / "mutant", True, index % 4 == 3
        if forged:
            has_to_fail = resealed(path, capture, chance)
        else:
            path.write_bytes((bytes_mutated if index % 2 == 0 else header_mutated)(whole, chance))
        started = time.perf_counter()
        try:
            found = read_capture(path)
        except InputError as error:
            if str(path) not in str(error):
                raise AssertionError(f"a refusal that names no file: {error}") from error
            counts["refused"] += 1
        else:
            if same(found, capture):
                counts["same"] += 1
            elif forged and not has_to_fail:
                counts["new_header"] += 1  # another valid header under a seal of its own is a bundle
            else:
                counts["false_accepts"] += 1
        counts["slowest"] = max(counts["slowest"], time.perf_counter() - started)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(fuzz(options.files, options.seed, Path(name)))
