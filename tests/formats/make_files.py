"""Writes the files of other programs that the tests read, with those programs themselves.

    python tests/formats/make_files.py

needs torch, numpy, safetensors and Pillow; the files in tests/formats/files were made with torch 2.15.0,
numpy 2.4.6, safetensors 0.8.0 and Pillow 13.0.0. MXNet can no longer be installed; its layout is written here byte by byte as
src/ndarray/ndarray.cc of Apache MXNet 1.9.1 has it (NDArray::Save, NDArray::LegacyLoad, TShape::Save).

expected.json says what the packages themselves read from each file: for every tensor its type, its sizes and
the bits of its values as float32.
"""

import collections
import io
import json
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import safetensors.torch
import torch
from PIL import Image

FILES = pathlib.Path(__file__).parent / "files"
EXPECTED = {}
DTYPES = {
    torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8",
    torch.bool: "bool",
}


def bits(values):
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32).tolist()


def expect(name, tensors):
    """Tensors, of torch or NumPy, by name, in the file's order."""
    entries = []
    for key, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            dtype, shape = DTYPES[tensor.dtype], list(tensor.shape)
            values = tensor.detach().to(torch.float32).contiguous().numpy()
        else:
            tensor = np.asarray(tensor)
            kind = {"f": "f", "i": "i", "u": "u", "b": "bool"}[tensor.dtype.kind]
            dtype = kind if kind == "bool" else f"{kind}{8 * tensor.dtype.itemsize}"
            shape, values = list(tensor.shape), tensor.astype(np.float32)
        entries.append({"name": str(key), "dtype": dtype, "shape": shape, "bits": bits(values)})
    EXPECTED[name] = entries


def numbers(*shape, dtype=torch.float32, scale=0.37):
    count = int(np.prod(shape))
    return ((torch.arange(count, dtype=torch.float64) - count / 3) * scale).to(dtype).reshape(shape)


def state_dict():
    """What state dicts hold: every type, views of all kinds, versions of modules."""
    network = torch.nn.Sequential(
        collections.OrderedDict(conv1a=torch.nn.Conv2d(2, 3, 3, bias=False), bn7=torch.nn.BatchNorm2d(3))
    )
    with torch.no_grad():
        network.conv1a.weight.copy_(numbers(3, 2, 3, 3))
        network.bn7.running_mean.copy_(numbers(3, scale=1 / 3))
    state = network.state_dict()
    assert isinstance(state, collections.OrderedDict) and state._metadata
    for dtype in DTYPES:
        state[f"types.{DTYPES[dtype]}"] = numbers(2, 3, dtype=dtype, scale=3.3).clone()
    state["types.large"] = torch.tensor([2**40 + 1, -(2**62)], dtype=torch.int64)
    base = numbers(4, 6)
    state["views.base"] = base
    state["views.transposed"] = base.t()
    state["views.part"] = base[1:3, 2:5]
    state["views.every_second"] = base[::2, ::3]
    state["views.last_column"] = base[:, 5]
    state["views.repeated"] = numbers(3, 1).expand(3, 4)
    state["views.channels_last"] = numbers(2, 3, 2, 2).to(memory_format=torch.channels_last)
    state["views.permuted"] = numbers(2, 3, 4).permute(2, 0, 1)
    state["views.scalar"] = base[3, 3]
    state["views.empty"] = torch.zeros(0, 4)
    return state


def save(name, thing, tensors, **options):
    torch.save(thing, FILES / name, **options)
    loaded = torch.load(FILES / name, weights_only="pickle_protocol" not in options)
    assert type(loaded) is type(thing) or isinstance(thing, collections.OrderedDict)
    expect(name, tensors)


class Python2Dict(collections.OrderedDict):
    """An OrderedDict that is pickled as Python 2.7 did it: a list of [key, value] lists."""

    def __reduce__(self):
        return collections.OrderedDict, ([[key, value] for key, value in self.items()],)


def torch_files():
    old = {"_use_new_zipfile_serialization": False}
    state = state_dict()
    save("torch-zip.pth", state, state)
    save("torch-old.pth", state, state, **old)
    small = collections.OrderedDict({"conv1a.weight": numbers(2, 1, 3, 3), "fc8.bias": numbers(4)})
    save("torch-old-protocol4.pth", small, small, pickle_protocol=4, **old)
    save("torch-python2.pth", Python2Dict(small), small, **old)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in small.items()}
    save("torch-parameters.pth", parameters, parameters)
    prefixed = {f"module.{name}": tensor for name, tensor in small.items()}
    prefixed["module.bn7.num_batches_tracked"] = torch.tensor(7)
    save("torch-module.pth", prefixed, prefixed)
    momentum = {"state": {0: {"momentum_buffer": numbers(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    nested = {"epoch": 3, "best": torch.tensor(0.5), "arch": "resnet38", "optimizer": momentum}
    save("torch-nested.pth", {**nested, "state_dict": small}, small)
    torch.save({"generator": small, "critic": collections.OrderedDict(small)}, FILES / "torch-ambiguous.pth")

    # Saved on a GPU: every storage is said to lie on `cuda:0`.
    torch.serialization.register_package(0, lambda storage: "cuda:0", lambda storage, place: None)
    for name, options in [("torch-cuda-zip.pth", {}), ("torch-cuda-old.pth", old)]:
        buffer = io.BytesIO()
        torch.save(small, buffer, **options)
        data = buffer.getvalue()
        assert b"cuda:0" in data
        if options:
            # As it was before PyTorch 0.4: the class of the storage names the device too.
            assert data.count(b"ctorch\nFloatStorage\n") == 1
            data = data.replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
        (FILES / name).write_bytes(data)
        expect(name, small)
    torch.serialization._package_registry.pop(0)

    # Saved on a machine with the other byte order: the same archive with every storage's bytes turned round.
    buffer = io.BytesIO()
    torch.save(small, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(FILES / "torch-big-endian.pth", "w") as turned:
        for entry in archive.namelist():
            data = archive.read(entry)
            if "/data/" in entry:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            turned.writestr(entry, b"big" if entry.endswith("byteorder") else data)
    turned = torch.load(FILES / "torch-big-endian.pth", weights_only=True)
    assert all(torch.equal(turned[name], small[name]) for name in small)
    expect("torch-big-endian.pth", small)


def numpy_files():
    arrays = {
        "f32": np.linspace(-2, 5, 24, dtype=np.float32).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 3, 2)),
        "f16": np.array([[1.5, -2.25], [65504, 6e-8]], np.float16),
        "big": np.array([1.0, np.pi, -1e30], ">f8"),
        "i64": np.array([[2**53 + 1], [-7]], np.int64),
        "bool": np.array([True, False, True]),
        "scalar": np.float32(0.1),
        "empty": np.zeros((0, 3), np.float32),
    }
    for name in ["f32", "fortran", "big"]:
        np.save(FILES / f"numpy-{name}.npy", arrays[name])
        expect(f"numpy-{name}.npy", {"array": arrays[name]})
    np.savez(FILES / "numpy.npz", **arrays)
    expect("numpy.npz", arrays)


def maps():
    height, width = 5, 7
    plane = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
    return {2: plane, 14: plane[::-1].copy()}


def pickled(name, thing, protocol):
    """As numpy.save did before version 2: older protocols, the module's older name."""
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(buffer, header)
    body = pickle.dumps(np.array(thing, dtype=object), protocol=protocol)
    buffer.write(body.replace(b"numpy._core", b"numpy.core"))
    (FILES / name).write_bytes(buffer.getvalue())


def map_files():
    psa = maps()
    np.save(FILES / "cams-psa.npy", psa)
    expect("cams-psa.npy", psa)
    for protocol in [2, 3]:
        pickled(f"cams-psa-protocol{protocol}.npy", psa, protocol)
        expect(f"cams-psa-protocol{protocol}.npy", psa)
    np.save(FILES / "cams-numpy-keys.npy", {np.int64(key): plane for key, plane in psa.items()})
    expect("cams-numpy-keys.npy", psa)
    stack = np.stack(list(psa.values()))
    irn = {"keys": np.array(list(psa)), "cam": stack[:, ::2, ::2], "high_res": stack}
    np.save(FILES / "cams-irn.npy", irn)
    expect("cams-irn.npy", irn)
    tensors = {key: torch.tensor(np.ascontiguousarray(value)) for key, value in irn.items()}
    np.save(FILES / "cams-irn-torch.npy", tensors)
    expect("cams-irn-torch.npy", tensors)
    # 2007_000032 shows the first and the third of four classes.
    tags = {"2007_000032": np.array([1, 0, 1, 0], np.float32), "2011_003276": np.array([0, 1, 0, 0], np.float32)}
    np.save(FILES / "cls_labels.npy", tags)
    expect("cls_labels.npy", tags)
    as_numbers = {int(key.replace("_", "")): value for key, value in tags.items()}
    np.save(FILES / "cls_labels-numbers.npy", as_numbers)
    expect("cls_labels-numbers.npy", as_numbers)


def safetensors_files():
    tensors = {f"types.{DTYPES[dtype]}": numbers(2, 3, dtype=dtype, scale=3.3) for dtype in DTYPES}
    tensors["conv1a.weight"] = numbers(3, 2, 3, 3)
    tensors["scalar"] = torch.tensor(0.1)
    path = FILES / "torch.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    # The file orders them by type and name.
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    order = sorted((v["data_offsets"], k) for k, v in header.items() if k != "__metadata__")
    expect("torch.safetensors", {name: tensors[name] for _, name in order})


V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
FLAGS = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6, "|b1": 7}


def mxnet_array(array, layout):
    """One NDArray. `array` is None for one that was never filled."""
    shape = () if array is None else array.shape
    if layout == "oldest":
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    elif layout == V1:
        head = struct.pack(f"<II{len(shape)}q", V1, len(shape), *shape)
    else:
        # Storage type 0 is dense. V3 marks what was never filled by -1 dimensions, so that 0 is a scalar.
        unknown = -1 if layout == V3 and array is None else len(shape)
        head = struct.pack(f"<Iii{len(shape)}q", layout, 0, unknown, *shape)
    if array is None:
        return head
    # Device type 1 is the CPU, 2 a GPU; then its number; then the element type.
    return head + struct.pack("<iii", 2, 0, FLAGS[array.dtype.str]) + np.ascontiguousarray(array).tobytes()


def mxnet_files():
    def values(*shape, dtype="<f4"):
        return (np.arange(np.prod(shape)).reshape(shape) * 0.37 - 1).astype(dtype)

    arrays = {
        "arg:conv1a_weight": values(3, 2, 3, 3),
        "arg:res4b3_branch2a_weight": values(2, 3, 1, 1),
        "arg:bn4b3_branch2a_gamma": values(3),
        "arg:bn4b3_branch2a_beta": values(3, dtype="<f2"),
        "aux:bn4b3_branch2a_moving_mean": values(3, dtype="<f8"),
        "aux:bn4b3_branch2a_moving_var": values(3) + 2,
        "arg:linear1000_weight": values(4, 2),
        "integers": np.array([[1, -2, 3]], "<i8"),
    }
    for name, layout in [("oldest", "oldest"), ("v1", V1), ("v2", V2), ("v3", V3)]:
        entries = dict(arrays)
        if layout == V3:
            entries["scalar"] = np.array(2.5, "<f4")
        if layout != V1:
            entries["unfilled"] = None
        data = struct.pack("<QQQ", 0x112, 0, len(entries))
        data += b"".join(mxnet_array(array, layout) for array in entries.values())
        data += struct.pack("<Q", len(entries))
        for key in entries:
            data += struct.pack("<Q", len(key)) + key.encode()
        (FILES / f"mxnet-{name}.params").write_bytes(data)
        expect(f"mxnet-{name}.params", {k: v for k, v in entries.items() if v is not None})


def picture_files():
    """Small photographs and masks of every kind; what is read of them is compared where it is lossless."""
    height, width = 6, 9
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([25 * x, 40 * y, 255 - 12 * (x + y)], -1).astype(np.uint8)
    image = Image.fromarray(rgb)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    image.save(FILES / "photo-rgb.jpg", quality=90)
    image.save(FILES / "photo-progressive.jpg", quality=90, progressive=True, subsampling="4:2:0")
    image.save(FILES / "photo-turned.jpg", quality=90, exif=orientation)
    image.convert("L").save(FILES / "photo-grey.jpg", quality=90)
    image.convert("CMYK").save(FILES / "photo-cmyk.jpg", quality=90)
    image.save(FILES / "photo-rgb.png", exif=orientation)
    image.convert("LA").save(FILES / "photo-grey-alpha.png")
    image.quantize(8).save(FILES / "photo-palette.png")
    Image.fromarray((rgb[..., 0].astype(np.uint16) * 257)).save(FILES / "photo-16-bit.png")
    mask = Image.fromarray((x // 3 + y).astype(np.uint8))
    mask.save(FILES / "mask-grey.png")
    mask.putpalette([(37 * i) % 256 for i in range(768)])
    mask.save(FILES / "mask-palette.png")
    mask.save(FILES / "mask-palette-4-bits.png", bits=4)
    expect("photo-rgb.png", {"pixels": rgb})
    expect("photo-16-bit.png", {"pixels": np.repeat(rgb[..., :1], 3, -1)})
    for name in ["mask-grey.png", "mask-palette.png", "mask-palette-4-bits.png"]:
        expect(name, {"labels": (x // 3 + y).astype(np.uint8)})


if __name__ == "__main__":
    FILES.mkdir(exist_ok=True)
    torch_files()
    numpy_files()
    map_files()
    safetensors_files()
    mxnet_files()
    picture_files()
    lines = [
        f"{json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(tensor)}" for tensor in tensors) + "\n]"
        for name, tensors in sorted(EXPECTED.items())
    ]
    (FILES / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
