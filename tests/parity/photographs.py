"""The dense CRF on photographs: the built program against pydensecrf.

    python tests/parity/photographs.py target/release/seedwalk PHOTOGRAPHS MAPS [--count 20]

PHOTOGRAPHS is a folder, MAPS one of psa's `.npy` dictionaries for them. Scores are the maps behind (1 - max)^4. Photographs
whose number of pixels is no multiple of 4 lose up to 3 columns, since pydensecrf pads them otherwise.
"""

import argparse
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

import reference as ref


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("photographs", type=pathlib.Path)
    arguments.add_argument("maps", type=pathlib.Path)
    arguments.add_argument("--count", type=int, default=20)
    arguments = arguments.parse_args()
    worst, different, pixels = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = sorted(f for f in arguments.photographs.iterdir() if (arguments.maps / f"{f.stem}.npy").exists())
        for file in files[:: max(1, len(files) // arguments.count)]:
            picture = np.asarray(Image.open(file).convert("RGB"))
            maps = np.stack(list(np.load(arguments.maps / f"{file.stem}.npy", allow_pickle=True).item().values()))
            width = picture.shape[1]
            width -= next(cut for cut in range(4) if picture.shape[0] * (width - cut) % 4 == 0)
            picture, maps = picture[:, :width].copy(), np.clip(maps[:, :, :width], 0, 1).astype(np.float32)
            scores = ref.with_background(maps, 4).astype(np.float32)
            Image.fromarray(picture).save(folder / "a.png")
            save_file({"probabilities": np.ascontiguousarray(scores)}, folder / "p")
            subprocess.run([arguments.program, "crf", "--image", folder / "a.png", "--probabilities", folder / "p",
                            "--output", folder / "q", "-q"], check=True, stdout=subprocess.DEVNULL)
            got, expected = load_file(folder / "q")["q"], ref.crf(picture, scores)
            worst.append(np.abs(got - expected).max())
            different += int((got.argmax(0) != expected.argmax(0)).sum())
            pixels += picture.shape[0] * width
    worst = np.array(worst)
    print(f"{len(worst)} photographs: largest difference {worst.max():.1e}, median of the largest {np.median(worst):.1e}; "
          f"{different} of {pixels} labels differ")
    raise SystemExit(int(worst.max() > 1e-4 or different > 1e-3 * pixels))


main()
