"""Hostile weight files, made knowing the format: tables, offsets, counts and links that lie, with checksums that agree."""
import io
import json
import random
import re
import struct
import zipfile

import h5py
import numpy as np

from transferlit.formats.tf_checkpoint import _MAGIC, _field, _slice_key, _table_block, _varint, crc32c, _masked, SortedTable
from transferlit.formats.entries import Source

NUMBERS = (0, 1, 2, 127, 255, 65_535, 1 << 24, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


# Small files with a large cost: each asks for much by naming one thing often, or by announcing what is not there.

def h5(path, write, **options):
    with h5py.File(path, "w", **options) as file:
        write(file)


def doubled(file, levels=40):
    group = file.create_group("0")
    group["w"] = np.ones(2)
    for level in range(1, levels):
        above = file.create_group(str(level))
        above["a"], above["b"], group = group, group, above


def crosswise(file, size=60):
    groups = [file.create_group(f"g{i}") for i in range(size)]
    for i, group in enumerate(groups):
        for j in range(i + 1, size):
            group[f"to{j}"] = groups[j]


def in_circles(file):
    group = file.create_group("a/b/c")
    group["up"] = file["a"]


def one_array(file, names=2000):
    file["w"] = np.zeros(1 << 20)
    for i in range(names):
        file[f"name{i}"] = file["w"]


def one_text(path, count=4000, size=300_000):
    """Many texts, all in one place."""
    h5(path, lambda file: file.create_dataset("w", data=["y" * size, *"a" * (count - 1)]))
    data = path.read_bytes()
    at = data.index(struct.pack("<I", size), 2048) if data.count(struct.pack("<I", size)) else 0
    path.write_bytes(data[:at] + data[at:at + 16] * count + data[at + 16 * count:])


def lists_that_repeat(file):
    group = file.create_group("l")
    group["w"] = np.ones(1)
    file.attrs["layer_names"], group.attrs["weight_names"] = [b"l"] * 3000, [b"w"] * 3000


def large_chunk(file):
    data = file.create_dataset("w", (4,), "u1", maxshape=(None,), chunks=(1 << 30,), compression="gzip")
    data.id.write_direct_chunk((0,), __import__("zlib").compress(bytes(1 << 28)))


def soft(file):
    file["w"] = np.ones(2)
    file["s"] = h5py.SoftLink("/s")


def table(path, items, repeat=1):
    """A table of these items, its one block named `repeat` times."""
    with open(path, "wb") as file:
        block = _table_block(items)
        file.write(block)
        handle = _varint(0) + _varint(len(block) - 5)
        index, at = _table_block([(b"\xff" + i.to_bytes(4, "big"), handle) for i in range(repeat)]), len(block)
        file.write(_table_block([]) + index)
        empty = len(_table_block([]))
        foot = _varint(at) + _varint(empty - 5) + _varint(at + empty) + _varint(len(index) - 5)
        file.write(foot.ljust(40, b"\0") + _MAGIC)


def long_keys(path, count=20_000, length=100_000):
    """Each key shares all of the one before, and adds a byte."""
    body = _varint(0) + _varint(length) + _varint(0) + b"k" * length
    for _ in range(count):
        body += _varint(length) + _varint(1) + _varint(0) + b"z"
        length += 1
    body += struct.pack("<II", 0, 1) + b"\0"
    block = body + struct.pack("<I", _masked(crc32c(body)))
    index, empty = _table_block([(b"\xff", _varint(0) + _varint(len(block) - 5))]), _table_block([])
    foot = _varint(len(block)) + _varint(len(empty) - 5) + _varint(len(block) + len(empty)) + _varint(len(index) - 5)
    path.write_bytes(block + empty + index + foot.ljust(40, b"\0") + _MAGIC)


def entry(dtype=1, shape=(2,), start=0, size=8, data=b"", slices=()):
    dims = b"".join(_field(2, _field(1, n) or b"\x08\0") for n in shape)
    parts = b"".join(b"\x3a" + _varint(len(s)) + s for s in slices)
    crc = _varint(6 << 3 | 5) + struct.pack("<I", _masked(crc32c(data)))
    body = _field(1, dtype) + b"\x12" + _varint(len(dims)) + dims
    return body + (parts if slices else _field(4, start) + _field(5, size) + crc)


HEAD = (b"", _field(1, 1) + _field(3, _field(1, 1)))


def one_place(path, names=2000):
    """Many variables, one place in the data."""
    data = np.ones(1 << 20, "f4").tobytes()
    path.with_name(path.name.replace(".index", ".data-00000-of-00001")).write_bytes(data)
    one = entry(shape=(1 << 20,), size=len(data), data=data)
    table(path, [HEAD, *((f"v{i:06}".encode(), one) for i in range(names))])


def extent(start, length): return _field(1, _field(1, start) + _field(2, length))


def slices(path, *extents):
    """A variable of four numbers in these slices."""
    data, made = np.ones(4, "f4").tobytes(), []
    path.with_name(path.name.replace(".index", ".data-00000-of-00001")).write_bytes(data * len(extents))
    for i, (start, length) in enumerate(extents):
        piece = data[:4 * length]
        made.append((_slice_key("w", ((start, length),)), entry(shape=(length,), start=16 * i, size=len(piece), data=piece)))
    whole = (b"w", entry(shape=(4,), slices=[extent(*e) for e in extents]))
    table(path, [HEAD, *sorted(made), whole])


def chain(path, nodes=20_000, name="n" * 60):
    """Objects that each hold the next one."""
    graph = b"".join(_message(1, _message(1, _field(1, i + 1) + _message(2, name.encode())) + _message(2, _message(2, b"v") + _message(3, f"k{i}".encode()))) for i in range(nodes))
    lengths = _varint(len(graph))
    heads = len(graph).to_bytes(4, "little")
    body = lengths + struct.pack("<I", _masked(crc32c(heads))) + graph
    crc = _varint(6 << 3 | 5) + struct.pack("<I", _masked(crc32c(struct.pack("<I", _masked(crc32c(heads))) + graph, crc32c(heads))))
    path.with_name(path.name.replace(".index", ".data-00000-of-00001")).write_bytes(body)
    table(path, [HEAD, (b"_CHECKPOINTABLE_OBJECT_GRAPH", _field(1, 7) + b"\x12\0" + _field(5, len(body)) + crc)])


def _message(number, data): return _varint(number << 3 | 2) + _varint(len(data)) + data


def overlapping_zip(path, members=2000):
    """Members that all name the bytes of the first one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(1 << 20, "u1"))
        z.writestr("a0.npy", buffer.getvalue())
        first = z.filelist[0]
        for i in range(1, members):
            info = zipfile.ZipInfo(f"a{i}.npy")
            for field in "header_offset", "CRC", "compress_size", "file_size", "compress_type":
                setattr(info, field, getattr(first, field))
            z.filelist.append(info)


def deep_json(path):
    """A configuration of 200 MB in 200 KB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("config.json", b"[" + b"[]," * 60_000_000 + b"[]]")
        z.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")


def deep_layers(path, wide=30_000, deep=100):
    """Many layers within one another, which pack well."""
    layer = {"class_name": "Dense", "config": {"name": "d"}}
    text = '{"class_name": "Sequential", "config": {"name": "s", "layers": [' * deep + json.dumps([layer] * wide)[1:-1] + "]}}" * deep
    arrays = io.BytesIO()
    with h5py.File(arrays, "w") as file:
        file["layers/d/vars/0"] = np.ones(3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", arrays.getvalue())


def twice_two_ways(path, levels=40):
    """Bidirectional layers within one another: each makes two of the one inside."""
    layer = {"class_name": "Dense", "config": {"name": "d"}}
    for i in range(levels):
        layer = {"class_name": "Bidirectional", "config": {"name": f"b{i}", "layer": layer}}
    with zipfile.ZipFile(path, "w") as archive, h5py.File(path.with_suffix(".tmp"), "w") as file:
        file["layers/d/vars/0"] = np.ones(3)
        file.flush()
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}))
        archive.write(path.with_suffix(".tmp"), "model.weights.h5")


def safetensors(path, head, data=b""):
    text = json.dumps(head).encode() if isinstance(head, dict) else head
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def costly(folder):
    """The files, by name."""
    made = {
        "doubled.h5": lambda p: h5(p, doubled), "doubled-new.h5": lambda p: h5(p, doubled, libver="latest"),
        "crosswise.h5": lambda p: h5(p, crosswise), "crosswise-new.h5": lambda p: h5(p, crosswise, libver="latest"),
        "circle.h5": lambda p: h5(p, in_circles), "circle-new.h5": lambda p: h5(p, in_circles, libver="latest"),
        "one-array.h5": lambda p: h5(p, one_array), "one-text.h5": one_text, "lists.h5": lambda p: h5(p, lists_that_repeat),
        "chunk.h5": lambda p: h5(p, large_chunk), "soft.h5": lambda p: h5(p, soft), "soft-new.h5": lambda p: h5(p, soft, libver="latest"),
        "keys.index": long_keys, "block.index": lambda p: table(p, [HEAD] + [(f"v{i:05}".encode(), entry(0, ())) for i in range(5000)], 2000),
        "place.index": one_place, "chain.index": chain, "overlap.npz": overlapping_zip, "json.keras": deep_json,
        "over.index": lambda p: slices(p, (0, 3), (2, 2)), "gap.index": lambda p: slices(p, (0, 1), (2, 2)),
        "twice.index": lambda p: slices(p, (0, 2), (0, 2)), "shifted.index": lambda p: slices(p, (0, 2), (1, 2)),
        "dims.safetensors": lambda p: safetensors(p, {"a": dict(dtype="F32", shape=[(1 << 63) - 1] * 50_000, data_offsets=[0, 0])}),
        "layers.keras": deep_layers, "two-ways.keras": twice_two_ways,
        "quotes.checkpoint": lambda p: p.write_bytes(b'model_checkpoint_path: "a"\n"' + b'\\"' * 500_000),
        "blanks.pbtxt": lambda p: p.write_bytes(b" " * 20_000_000),
        "brackets.safetensors": lambda p: safetensors(p, b'{"a":' + b"[" * 1_000_000),
    }
    for name, make in made.items():
        make(folder / name)
    return [folder / name for name in made]


# Files that were good, with one number or name of their structure changed.

def changed_number(data, rng, widths=(1, 2, 4, 8)):
    """A number anywhere becomes another: a small one, a large one, or one that stands elsewhere in the file."""
    data, width = bytearray(data), rng.choice(widths)
    at, other = (rng.randrange(len(data) // width) * width for _ in range(2))
    value = rng.choice([rng.choice(NUMBERS), len(data) - rng.randrange(16), int.from_bytes(data[other:other + width], "little"), other])
    data[at:at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    return bytes(data)


def changed_text(data, rng):
    """A number written in text becomes another, or a piece is doubled."""
    text = data.decode("latin1")
    found = list(re.finditer(r"\d+", text))
    if not found or rng.random() < .2:
        at, size = rng.randrange(len(text)), rng.randrange(1, 40)
        return (text[:at] + text[at:at + size] + text[at:]).encode("latin1")
    one = rng.choice(found)
    return (text[:one.start()] + str(rng.choice([-1, *NUMBERS, "1e9", "[]", "null"])) + text[one.end():]).encode("latin1")


def retabled(data, rng, folder):
    """A table with an entry changed, dropped, doubled or renamed, and right checksums."""
    (folder / "table").write_bytes(data)
    items = [(bytes(k), bytes(v)) for k, v in SortedTable(Source(folder / "table")).items()]
    i, (key, value) = (n := rng.randrange(len(items))), items[n]
    match rng.randrange(4):
        case 0 | 1:
            items[i] = key, changed_number(value or b"\0", rng, (1, 2))
        case 2:
            items[i] = key, rng.choice(items)[1]
        case 3:
            items[i] = changed_number(key or b"\0", rng, (1,)), value
    table(folder / "table", items if rng.random() < .3 else sorted(items))
    return (folder / "table").read_bytes()


def rezipped(data, rng):
    """An archive with one member changed, and right checksums; or with its directory changed."""
    if rng.random() < .4:
        start = data.index(b"PK\x01\x02")
        return data[:start] + changed_number(data[start:], rng, (1, 2, 4))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                change = changed_text if name.endswith(".json") else changed_number
                content = changed_text(content[:128], rng) + content[128:] if name.endswith(".npy") else change(content, rng)
            new.writestr(name, content, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    return buffer.getvalue()


def changed(kind, data, seed, folder):
    """One hostile relative of a good file."""
    rng = random.Random(seed)
    if kind.endswith((".index", "v1.ckpt")):
        return retabled(data, rng, folder)
    if kind.endswith((".npz", ".keras")):
        return rezipped(data, rng)
    if kind.endswith((".json", "checkpoint")):
        return changed_text(data, rng)
    if kind.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        head = changed_text(data[8:8 + size], rng)
        return len(head).to_bytes(8, "little") + head + data[8 + size:]
    return changed_number(data, rng)
