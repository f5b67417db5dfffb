"""A receiver of versions of a checkpoint, written from the layout's description alone: what
`incise export --disk-delta` publishes is held to it."""

import json
from pathlib import Path

import numpy
import xxhash
import zstandard
from safetensors import safe_open


def places(model):
    """Of each tensor its file, and where its bytes begin and end there."""
    found = {}
    for file in Path(model).glob("*.safetensors"):
        head = file.open("rb").read(8)
        length = int.from_bytes(head, "little")
        header = json.loads(file.read_bytes()[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, its in header.items():
            begin, end = its["data_offsets"]
            found[name] = file, 8 + length + begin, 8 + length + end
    return found


def receive(model, version, at):
    """Brings a checkpoint that is at version `at` to the next one; returns that."""
    meta = json.loads((version / "model.safetensors.index.json").read_text())["metadata"]
    assert int(meta["base_version"]) == at, f"{version} does not follow {at}"
    assert (meta["compression_format"], meta["checksum_format"]) == ("zstd", "xxh3-128")
    where = places(model)
    for file in version.glob("*.safetensors"):
        with safe_open(file, "numpy") as packed:
            sums = packed.metadata()
            for name in packed.keys():
                stored, begin, end = where[name]
                whole = bytearray(stored.read_bytes())
                bytes_ = numpy.frombuffer(whole, numpy.uint8)[begin:end]
                data = packed.get_tensor(name).tobytes()
                data = numpy.frombuffer(zstandard.decompress(data), numpy.uint8)
                if meta["delta_encoding"] == "xor":
                    bytes_ ^= data
                else:
                    n = int(data[:4].view("<u4")[0])
                    bytes_[data[4 : 4 + 4 * n].view("<u4")] = data[4 + 4 * n :]
                found = xxhash.xxh3_128(bytes_.tobytes()).hexdigest()
                assert found == sums[name], f"{name}: {found} is not {sums[name]}"
                stored.write_bytes(whole)
    return int(meta["version"])
