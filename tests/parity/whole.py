"""A whole run under the preset `psa` against the reference: every stage's output from the stages before it.

    cargo build --release
    python tests/parity/whole.py target/release/seedwalk [--images 8] [--size 96]

The program trains its three networks on generated pictures (seconds) as `whole.toml` says; from their weights, the
reference makes class maps, affinity labels, pseudo labels and segmentations anew, and compares.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

import reference as ref

NARROW = 32


def network(program, place, head, name, classes):
    net = ref.Net(head, NARROW, classes)
    file = place / f"{name}.safetensors"
    subprocess.run([program, "convert-weights", "--channels-first", place / "run" / name, file, "-q"],
                   check=True, stdout=subprocess.DEVNULL)
    weights = load_file(file)
    assert set(weights) == set(net.w), set(weights) ^ set(net.w)
    for key, value in weights.items():
        assert value.shape == tuple(net.w[key].shape), key
        net.w[key] = torch.from_numpy(value)
    return net


@torch.no_grad()
def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("--images", default="8")
    arguments.add_argument("--size", default="96")
    arguments = arguments.parse_args()
    program = pathlib.Path(arguments.program).resolve()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        run = lambda *words: subprocess.run([program, *words, "-q"], cwd=place, check=True, stdout=subprocess.DEVNULL)
        run("synth", "--output", "data", "--images", arguments.images, "--size", arguments.size, "--seed", "3")
        initial = ref.Net("cam-psa", NARROW)
        save_file({k: v.numpy() for k, v in initial.w.items()}, place / "initial.safetensors")
        shutil.copy(pathlib.Path(__file__).with_name("whole.toml"), place / "psa.toml")
        run("run", "psa.toml")
        names = (place / "run/cams/classes.txt").read_text().split()
        cam = network(program, place, "cam-psa", "cam", len(names) - 1)
        affinity = network(program, place, "affinity-psa", "affinity", 0)
        segmentation = network(program, place, "segmentation", "segmentation", len(names))
        segmentation.dilation = 3
        worst, shares = 0.0, {}
        for file in sorted((place / "run/cams").glob("*.npy")):
            picture = np.asarray(Image.open(next((place / "data/JPEGImages").glob(f"{file.stem}.*"))).convert("RGB"))
            h, w = picture.shape[:2]
            made = np.load(file, allow_pickle=True).item()
            assert all(v.dtype == np.float32 and v.shape == (h, w) for v in made.values())
            present, maps = list(made), np.stack(list(made.values()))
            worst = max(worst, np.abs(maps - ref.multi_scale_cam(cam, picture, present, 1e-5)).max())
            palette = np.array([0] + [c + 1 for c in present] + [255] * 254, np.uint8)

            def compare(name, expected):
                got = np.asarray(Image.open(place / "run" / name / f"{file.stem}.png"))
                shares.setdefault(name, []).append((got == expected).mean())

            if (place / f"run/affinity-labels/{file.stem}.png").exists():
                strong, weak = (ref.crf(picture, ref.with_background(maps, alpha)) for alpha in (4, 32))
                compare("affinity-labels", palette[ref.rules(strong.argmax(0), weak.argmax(0))])
            x = torch.nn.functional.pad(ref.normalize(picture), (0, -w % 8, 0, -h % 8))
            planes = ref.affinities(affinity.features(affinity.taps(x))[0].numpy(), True, "psa")
            walked = torch.from_numpy(ref.walk(planes, ref.pool(ref.with_background(maps, 16)), 8, 256))[None]
            walked = torch.nn.functional.interpolate(walked, x.shape[2:], mode="bilinear", align_corners=False)
            compare("pseudo-labels", palette[walked[0, :, :h, :w].numpy().argmax(0)])
            compare("segmentations", ref.segmentation(segmentation, picture, [1.0]).argmax(0))
        print(f"class maps: off by {worst:.1e} at most")
        for name, values in shares.items():
            print(f"{name}: {100 * np.mean(values):.3f} % of the labels equal, of {len(values)} images")
        raise SystemExit(int(worst > 5e-4 or min(np.mean(v) for v in shares.values()) < 0.999))


main()
