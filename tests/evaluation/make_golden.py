"""Makes the files that tests/evaluation.rs reads: label maps with scikit-learn's scores of them, and class
maps in the forms of psa and irn as NumPy and PyTorch write them.

    python tests/evaluation/make_golden.py        (numpy, pillow, scikit-learn, torch; any recent versions)

Everything is drawn from one seed, so a second run writes the same numbers.
"""
import json
import os

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, precision_score, recall_score

HERE = os.path.dirname(os.path.abspath(__file__))
# The last class occurs in neither truth nor prediction.
CLASSES = ["background", "apple", "boat", "cat", "dog"]
# Width, height and tags (0 = apple); the first is taken in every form of class maps.
IMAGES = {"one": (13, 9, [0, 2]), "two": (16, 8, [1]), "three": (5, 11, [0, 1, 2])}
THRESHOLDS = [0.05, 0.2, 0.35, 0.6, 0.9]

random = np.random.default_rng(20261125)


def write_png(folder, name, labels):
    os.makedirs(f"{HERE}/{folder}", exist_ok=True)
    image = Image.fromarray(labels, mode="P")
    # All 256 colours: with few of them Pillow packs two pixels into a byte and cuts 255 to 15.
    image.putpalette([channel for grey in range(256) for channel in (grey, grey, grey)])
    image.save(f"{HERE}/{folder}/{name}.png")


def save(folder, name, entries):
    os.makedirs(f"{HERE}/{folder}", exist_ok=True)
    np.save(f"{HERE}/{folder}/{name}.npy", entries)


def scores(truth, predicted):
    """What scikit-learn makes of flat label maps; pixels whose truth is 255 are left out."""
    known = truth != 255
    truth, predicted = truth[known], predicted[known]
    classes = list(range(len(CLASSES)))
    occurs = [bool(((truth == c) | (predicted == c)).any()) for c in classes]
    per_class = lambda f: [float(v) for v in f(truth, predicted, labels=classes, average=None, zero_division=0)]
    iou = per_class(jaccard_score)
    return {
        "confusion_matrix": confusion_matrix(truth, predicted, labels=classes).tolist(),
        "iou": [v if o else None for v, o in zip(iou, occurs)],
        "precision": [v if (predicted == c).any() else None for c, v in enumerate(per_class(precision_score))],
        "recall": [v if (truth == c).any() else None for c, v in enumerate(per_class(recall_score))],
        "mean_iou": float(np.mean([v for v, o in zip(iou, occurs) if o])),
        "pixel_accuracy": float(accuracy_score(truth, predicted)),
    }


def labelled(maps, tags, threshold):
    """The label map of class maps L×H×W against a constant background score."""
    all_maps = np.concatenate([np.full((1, *maps.shape[1:]), np.float32(threshold)), maps])
    return np.array([0] + [tag + 1 for tag in tags], np.uint8)[all_maps.argmax(0)]


def scaled(maps):
    return maps / maps.max(axis=(1, 2), keepdims=True)


def interpolate(maps, height, width):
    tensor = torch.from_numpy(maps)[None]
    return torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear")[0].numpy()


truths, predictions, maps, strided = {}, {}, {}, {}
for name, (w, h, tags) in IMAGES.items():
    truths[name] = random.choice([0, 1, 2, 3, 255], (h, w), p=[0.4, 0.2, 0.15, 0.15, 0.1]).astype(np.uint8)
    right = random.random((h, w)) < 0.6
    guess = random.choice([0, 1, 2, 3], (h, w)).astype(np.uint8)
    predictions[name] = np.where(right & (truths[name] != 255), truths[name], guess)
    # As psa and irn do, scaled to a maximum of 1.
    maps[name] = scaled(random.random((len(tags), h, w), np.float32))
    strided[name] = random.random((len(tags), -(-h // 4), -(-w // 4)), np.float32)
    write_png("truth", name, truths[name])
    write_png("predictions", name, predictions[name])
    save("psa", name, {tag: plane for tag, plane in zip(tags, maps[name])})

w, h, tags = IMAGES["one"]
keys, cam, high = np.array(tags), strided["one"], maps["one"]
save("irn", "one", {"keys": keys, "cam": cam, "high_res": high})
save("irn-padded", "one", {"keys": np.pad(keys + 1, (1, 0)), "high_res": high})
save("irn-strided", "one", {"keys": keys, "cam": cam})
save("irn-torch", "one", {"keys": torch.tensor(tags), "cam": torch.from_numpy(cam), "high_res": high})
# Not class maps, each in a way of its own: the test knows what is to be said of each.
save("bad", "keys", {"keys": np.array([0, 1, 2, 3]), "high_res": high})
save("bad", "index", {0: high[0], 9: high[1]})
save("bad", "fraction", {"keys": np.array([0.5, 2]), "high_res": high})
save("bad", "planes", {"keys": np.array([0]), "high_res": high[0]})
save("bad", "stride", {"keys": keys, "cam": high})
save("bad", "names", {"apple": high[0]})
save("bad", "array", high)
save("bad", "nan", {0: np.where(high[0] > 0.9, np.float32("nan"), high[0])})

flat = lambda arrays: np.concatenate([a.ravel() for a in arrays])
images = list(IMAGES)
golden = {
    "classes": CLASSES,
    "labels": scores(flat(truths[i] for i in images), flat(predictions[i] for i in images)),
    "psa": {
        str(t): scores(
            flat(truths[i] for i in images),
            flat(labelled(maps[i], IMAGES[i][2], t) for i in images),
        )["confusion_matrix"]
        for t in THRESHOLDS
    },
    "irn": scores(truths["one"].ravel(), labelled(high, tags, 0.5).ravel())["confusion_matrix"],
    "irn-strided": scores(truths["one"].ravel(), labelled(scaled(interpolate(cam, h, w)), tags, 0.5).ravel())[
        "confusion_matrix"
    ],
}
with open(f"{HERE}/golden.json", "w") as file:
    json.dump(golden, file)
    file.write("\n")
