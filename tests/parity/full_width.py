"""The built program at full width against PyTorch: 105 million weights by rule, one picture.

    cargo build --release
    python tests/parity/full_width.py target/release/seedwalk [--size 96x128] [--repeat 1]

Takes 3 GB of memory and, on two cores, minutes. Weights go to a temporary folder (440 MB) and are removed.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

import reference as ref
import rule


@torch.no_grad()
def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("--size", default="96x128", help="height x width of the picture")
    arguments.add_argument("--repeat", default="1")
    arguments.add_argument("--heads", default="cam-psa,cam-paper,affinity-psa,affinity-paper")
    arguments = arguments.parse_args()
    h, w = map(int, arguments.size.split("x"))
    picture = rule.image("full", h, w)
    x = ref.normalize(picture)
    taps, worst = None, 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        Image.fromarray(picture).save(folder / "a.png")
        for head in arguments.heads.split(","):
            net = ref.Net(head, classes=20)
            save_file({k: v.numpy() for k, v in net.w.items()}, folder / "weights")
            kind, preset = head.split("-")
            command = [arguments.program, "forward", "--network", kind, "--weights", folder / "weights", "--image",
                       folder / "a.png", "--output", folder / "out", "--json", "--repeat", arguments.repeat]
            told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            got = load_file(folder / "out")
            if taps is None:
                started = time.perf_counter()
                taps = net.taps(x)
                print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {time.perf_counter() - started:.1f} s")
            expected = {k: v.numpy().transpose(0, 2, 3, 1) for k, v in taps.items()}
            if kind == "cam":
                expected["logits"] = net.logits(x).numpy()
                expected["class_activation_maps"] = net.cams(taps).numpy().transpose(0, 2, 3, 1)
            else:
                features = net.features(taps)
                expected["features"] = features.numpy().transpose(0, 2, 3, 1)
                psa = preset == "psa"
                expected["affinities"] = ref.affinities(features[0].numpy(), psa, "psa" if psa else "full")
            print(f"{head}: {min(told['seconds']):.2f} s")
            for name, value in expected.items():
                assert got[name].shape == value.shape, (name, got[name].shape, value.shape)
                assert (np.isnan(got[name]) == np.isnan(value)).all(), name
                largest = np.nanmax(np.abs(value))
                off = np.nanmax(np.abs(got[name].astype(np.float64) - value))
                limit = 2e-4 * largest if name.startswith("conv") or name == "features" else 5e-4
                worst = max(worst, off / limit)
                print(f"  {name:22} {str(value.shape):22} largest {largest:9.3f}  off {off:.1e}  allowed {limit:.1e}")
    print(f"worst: {worst:.3f} of what is allowed")
    raise SystemExit(int(worst > 1))


main()
