"""Writes the golden files. Run from anywhere: python tests/parity/generate.py [PART...]"""

import io
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file

import jpeg
import reference as ref
import rule

GOLDEN = pathlib.Path(__file__).parent / "golden"
NETWORKS = (45, 83)  # not multiples of 8; a grid of 6×11, on which psa's border rule leaves 2×3 sources
SCALES = (29, 43)  # times 0.5 and 1.5 both round half to even
SEGMENTED = (112, 120)
NARROW = 16


def save(name, tensors, dtype=np.float32):
    path = GOLDEN / f"{name}.safetensors"
    save_file({k: np.ascontiguousarray(v, dtype=dtype) for k, v in tensors.items()}, path)
    assert path.stat().st_size < 60_000, f"{name}: {path.stat().st_size} bytes"


def last(x):
    """Channels last."""
    return x.numpy().transpose(0, 2, 3, 1)


@torch.no_grad()
def networks():
    x = ref.normalize(rule.image("networks", *NETWORKS)).double()
    net = ref.Net("cam-psa", NARROW, dtype=torch.float64)
    taps = net.taps(x)
    # Every fourth channel of conv6 keeps the file small.
    save("taps", {"conv4": last(taps["conv4"]), "conv5": last(taps["conv5"]), "conv6": last(taps["conv6"])[..., ::4]})
    heads = {}
    for preset in ["psa", "paper"]:
        net = ref.Net(f"cam-{preset}", NARROW, dtype=torch.float64)
        heads[f"{preset}.logits"] = net.logits(x).numpy()
        heads[f"{preset}.class_activation_maps"] = last(net.cams(taps))
        net = ref.Net(f"affinity-{preset}", NARROW, dtype=torch.float64)
        features = net.features(taps)
        heads[f"{preset}.features"] = last(features)
        psa = preset == "psa"
        heads[f"{preset}.affinities"] = ref.affinities(features[0].numpy(), psa, "psa" if psa else "full")
    save("heads", heads)


@torch.no_grad()
def segmentation():
    """The segmentation head on a grid of 14×15, which its dilation of 12 crosses in both directions."""
    picture = rule.image("segmentation", *SEGMENTED)
    net = ref.Net("segmentation", NARROW, dtype=torch.float64)
    logits = net.scores(net.taps(ref.normalize(picture).double()))
    p = F.softmax(F.interpolate(logits, SEGMENTED, mode="bilinear", align_corners=False), dim=1)
    save("segmentation", {"logits": last(logits), "probabilities": last(p)[:, ::5, ::7]})
    label = ref.segmentation(net, picture, [1.0, 0.75]).argmax(0).astype(np.uint8)
    print("segmentation", np.bincount(label.ravel()))
    write_labels("segmentation", label)


@torch.no_grad()
def multi_scale():
    picture = rule.image("scales", *SCALES)
    maps = {}
    for preset, epsilon in [("psa", 1e-5), ("paper", 0.0)]:
        net = ref.Net(f"cam-{preset}", NARROW)
        maps[preset] = ref.multi_scale_cam(net, picture, [0, 2], epsilon)
    save("multi-scale", maps)


def steps():
    """Walks and affinity matrices by themselves."""
    h, w = 12, 17
    affinity = 0.5 + 0.5 * rule.noise("walk.affinities", (34, h, w))
    maps = rule.maps(h, w)
    out = {}
    for border in ["full", "psa"]:
        masked = affinity.astype(np.float64)
        for plane, (dy, dx) in zip(masked, ref.offsets()):
            plane[~ref.exists(h, w, dy, dx, border)] = np.nan
        for t in [1, 256]:
            out[f"{border}.{t}"] = ref.walk(masked, maps, 8, t)
    features = rule.noise("features", (h, w, 5)).transpose(2, 0, 1)
    # A radius of 3 with the comparison ≤ has the offsets (0, 3) and (3, 0) too.
    out["inclusive"] = ref.affinities(features, True, "full", ref.offsets(3, True))
    save("steps", out)


def losses():
    out = {}
    logits = (rule.noise("margin.logits", (4, 5)) * np.float32(3)).astype(np.float64)
    logits[0, 0], logits[0, 1] = 100, -100
    targets = (rule.words("margin.targets", 20) & np.uint64(1)).astype(np.float64).reshape(4, 5)
    x = torch.from_numpy(logits).requires_grad_()
    loss = F.multilabel_soft_margin_loss(x, torch.from_numpy(targets))
    loss.backward()
    out["margin"], out["margin.gradient"] = loss.detach().numpy(), x.grad.numpy()

    x = torch.from_numpy((rule.noise("entropy.logits", (2, 3, 4, 6)) * np.float32(4)).astype(np.float64)).requires_grad_()
    labels = (rule.words("entropy.labels", 24) % np.uint64(7)).astype(np.int64).reshape(2, 3, 4)
    labels[labels == 6] = 255
    loss = F.cross_entropy(x.permute(0, 3, 1, 2), torch.from_numpy(labels), ignore_index=255)
    loss.backward()
    out["entropy"], out["entropy.gradient"] = loss.detach().numpy(), x.grad.numpy()

    labels = (rule.words("affinity.labels", 2 * 7 * 11) % np.uint64(4)).astype(np.int64).reshape(2, 7, 11)
    labels[labels == 3] = 255
    for preset in ["psa", "paper"]:
        psa = preset == "psa"
        x = torch.from_numpy(rule.noise("affinity.features", (2, 7, 11, 5)).astype(np.float64)).requires_grad_()
        loss = ref.affinity_loss(x.permute(0, 3, 1, 2), labels, psa, "psa" if psa else "full", psa)
        loss.backward()
        out[f"affinity.{preset}"] = loss.detach().numpy()
        out[f"affinity.{preset}.gradient"] = x.grad.numpy()
    save("losses", out)


KEPT = [
    "conv1a.weight", "b2.conv_branch2a.weight", "b3.conv_branch1.weight", "b4.bn_branch2a.running_mean",
    "b5.bn_branch2b1.bias", "b6.conv_branch2a.weight", "bn7.weight", "bn7.running_var", "conv_cam.bias",
    "fc8.weight", "fc8.bias",
]


def training():
    """Ten steps of each preset's CAM network on one batch of two pictures, in f64."""
    pictures = [ref.normalize(rule.image(f"training.{i}", 40, 48)) for i in range(2)]
    x = torch.cat(pictures).double()
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    total, seed = 10, 5
    # At the paper's own rate these steps are chaotic: PyTorch in f32 and in f64 differ by 1e-2 in the seventh loss.
    for preset, rate in [("psa", 0.02), ("paper", 1e-4)]:
        net = ref.Net(f"cam-{preset}", 32, dtype=torch.float64)
        psa = preset == "psa"
        net.learning = not psa
        groups = {}
        for name, value in net.w.items():
            norm = name.startswith("bn") or ".bn" in name
            frozen = norm or name.startswith(("conv1a", "b2.", "b2_"))
            if "running" in name or (psa and frozen):
                continue
            value.requires_grad_()
            bias = name.endswith("bias") and not norm
            factor = (2 if bias else 1) * (10 if name.startswith(("fc8", "conv_cam")) else 1)
            decay = 0.0 if bias or norm else 5e-4
            groups.setdefault((factor, decay), []).append(value)
        groups = [{"params": v, "lr": rate * f, "weight_decay": d, "factor": f} for (f, d), v in groups.items()]
        # What the authors' code comes to: its weight decay stands in the place of SGD's momentum.
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=5e-4) if psa else torch.optim.Adam(groups, lr=rate)
        history = []
        for step in range(total):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"] * (1 - step / total) ** 0.9
            net.training = (seed, step)
            loss = F.multilabel_soft_margin_loss(net.logits(x), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        print(preset, " ".join(f"{v:.5f}" for v in history))
        out = {n: net.w[n].detach().numpy() for n in KEPT if n in net.w}
        save(f"training-{preset}", {"losses": np.array(history), **out})


def crf():
    for name, (h, w) in [("crf", (48, 64)), ("crf-padded", (45, 63))]:
        scores = ref.with_background(rule.maps(h, w), 4)
        save(name, {"q": ref.crf(rule.image("crf", h, w), scores)})
    # Every remainder of the number of pixels by 4: of a picture, and of noise under scores of noise.
    pictures, noise = {}, {}
    for h, w in [(24, 36), (25, 29), (26, 31), (27, 33)]:
        pictures[f"{h}x{w}"] = ref.crf(rule.image("crf", h, w), ref.with_background(rule.maps(h, w), 4))
    for h, w in [(20, 28), (21, 25), (22, 27), (21, 27)]:
        colours = (rule.words("crf.noise", h * w * 3) >> np.uint64(24)).astype(np.uint8).reshape(h, w, 3)
        noise[f"{h}x{w}"] = ref.crf(colours, np.float32(0.5) + np.float32(0.5) * rule.noise("crf.scores", (3, h, w)))
    save("crf-pictures", pictures)
    save("crf-noise", noise)


def labels():
    """Affinity labels at image size as PNG, and psa's on the grid of a crop that reaches beyond the picture."""
    h, w = 48, 64
    picture, maps = rule.image("crf", h, w), rule.maps(h, w)
    for preset, alpha in [("psa", 32), ("paper", 24)]:
        strong = ref.crf(picture, ref.with_background(maps, 4))
        weak = ref.crf(picture, ref.with_background(maps, alpha))
        # Classes 3 and 7 of the data set, labels 4 and 8.
        at_pixels = np.array([0, 4, 8] + [255] * 253, np.uint8)[ref.rules(strong.argmax(0), weak.argmax(0))]
        write_labels(f"affinity-labels-{preset}", at_pixels)
        if preset == "psa":
            cropped = [np.pad(p, ((0, 0), (5, 11), (3, 21))) for p in (strong, weak)]
            save("grid-labels", {"labels": ref.grid_labels(*cropped)}, np.uint8)


@torch.no_grad()
def pseudo_labels():
    """The walk's labels of whole pictures; `paper` with the CRF behind it."""
    for preset, (h, w) in [("psa", (45, 83)), ("paper", (44, 84))]:
        psa = preset == "psa"
        picture, maps = rule.image("pseudo", h, w), rule.maps(h, w)
        x = ref.normalize(picture).double()
        if psa:
            x = F.pad(x, (0, -w % 8, 0, -h % 8))
        net = ref.Net(f"affinity-{preset}", NARROW, dtype=torch.float64)
        affinity = ref.affinities(net.features(net.taps(x))[0].numpy(), psa, "psa" if psa else "full")
        seeds = ref.with_background(maps, 16)
        grid = ref.pool(seeds)
        if not psa:
            grid /= ref.pool(np.ones_like(seeds))
        walked = torch.from_numpy(ref.walk(affinity, grid, 8, 256))[None]
        size = x.shape[2:] if psa else (h, w)
        walked = F.interpolate(walked, size, mode="bilinear", align_corners=False)[0, :, :h, :w].numpy()
        if not psa:
            walked = ref.crf(picture, walked)
        label = np.array([0, 4, 8], np.uint8)[walked.argmax(0)]
        print("pseudo labels", preset, np.bincount(label.ravel(), minlength=9)[[0, 4, 8]])
        write_labels(f"pseudo-labels-{preset}", label)


def write_labels(name, labels):
    picture = Image.fromarray(labels, "P")
    picture.putpalette([v for i in range(256) for v in (i, i, i)])
    picture.save(GOLDEN / f"{name}.png")


def resizes():
    picture = Image.fromarray(rule.image("resize", 17, 21))
    for name, method in [("cubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)]:
        sizes = [(42, 34), (10, 8), (32, 26), (11, 33), (21, 29), (3, 2), (1, 1)]
        out = {f"{w}x{h}": np.asarray(picture.resize((w, h), method)) for w, h in sizes}
        save(f"resize-{name}", out, np.uint8)
    planes = torch.from_numpy(rule.noise("planes", (1, 2, 6, 11)))
    out = {f"{w}x{h}": F.interpolate(planes, (h, w), mode="bilinear", align_corners=False)[0].numpy()
           for w, h in [(83, 45), (24, 16), (5, 3)]}
    save("upsampling", out)


def photographs():
    """JPEG files and what Pillow, that is libjpeg-turbo, makes of them."""
    files = {}
    picture = Image.fromarray(rule.image("photograph", 23, 29))
    variants = {
        "full": {"subsampling": 0}, "half": {"subsampling": 1, "quality": 60}, "quarter": {"subsampling": 2},
        "progressive": {"progressive": True, "subsampling": 2}, "coarse": {"quality": 3},
        "restarts": {"restart_marker_blocks": 1}, "rgb": {"keep_rgb": True}, "fine": {"quality": 100, "subsampling": 0},
    }
    for name, options in variants.items():
        files[name] = (picture, options)
    files["grey"] = (picture.convert("L"), {"progressive": True})
    files["inks"] = (picture.convert("CMYK"), {"quality": 90})
    for w, h in [(1, 1), (2, 3), (5, 1), (4, 4)]:
        files[f"{w}x{h}"] = (picture.crop((8, 8, 8 + w, 8 + h)), {"subsampling": 2})
    encoded = {}
    for name, (image, options) in files.items():
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        encoded[name] = file.getvalue()
    random = np.random.default_rng(3)
    for name, factors, interleaved in [
        ("upright", [(1, 2), (1, 1), (1, 1)], True), ("wide", [(4, 1), (1, 1), (1, 1)], True),
        ("crossed", [(2, 2), (2, 1), (1, 2)], True), ("luma-halved", [(1, 1), (2, 2), (1, 1)], False),
        ("apart", [(2, 2), (1, 1), (1, 1)], False), ("grey-of-four", [(2, 2)], True),
    ]:
        encoded[name] = jpeg.write(21, 19, factors, random, interleaved)
    out = {}
    for name, data in encoded.items():
        out[f"{name}.file"] = np.frombuffer(data, np.uint8)
        out[f"{name}.pixels"] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    save("photographs", out, np.uint8)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    parts = [photographs, resizes, steps, losses, crf, labels, networks, segmentation, multi_scale, pseudo_labels, training]
    # Names after the command make those parts alone.
    for part in [part for part in parts if part.__name__ in sys.argv[1:] or not sys.argv[1:]]:
        part()
