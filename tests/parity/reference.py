"""The pipeline's arithmetic anew, from its equations: PyTorch for networks, NumPy in f64 for what has
a dense form, pydensecrf for the CRF, Pillow for pictures. Nothing here is taken from seedwalk.
"""

import numpy as np
import pydensecrf.densecrf as dcrf
import torch
import torch.nn.functional as F
from PIL import Image

import rule

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
STRIDE = 8

# (name, in, mid, out, stride, dilation of the first and second 3×3); b6 and b7 apart.
BASIC = [
    ("b2", 64, 128, 128, 2, 1, 1), ("b2_1", 128, 128, 128, 1, 1, 1), ("b2_2", 128, 128, 128, 1, 1, 1),
    ("b3", 128, 256, 256, 2, 1, 1), ("b3_1", 256, 256, 256, 1, 1, 1), ("b3_2", 256, 256, 256, 1, 1, 1),
    ("b4", 256, 512, 512, 2, 1, 1), *[(f"b4_{i}", 512, 512, 512, 1, 1, 1) for i in range(1, 6)],
    ("b5", 512, 512, 1024, 1, 1, 2), ("b5_1", 1024, 512, 1024, 1, 2, 2), ("b5_2", 1024, 512, 1024, 1, 2, 2),
]
BOTTLENECK = [("b6", 1024, 512, 2048, 0.3), ("b7", 2048, 1024, 4096, 0.5)]


def normalize(image):
    """1×3×H×W of an H×W×3 picture."""
    x = (image.astype(np.float32) / np.float32(255) - MEAN) / STD
    return torch.from_numpy(x.transpose(2, 0, 1)[None].copy())


class Net:
    """The backbone and a head at width 1/`narrow`, with weights by rule.

    `training` holds (seed, step) while dropout draws; `learning` normalises by the batch's statistics.
    """

    def __init__(self, head, narrow=1, classes=3, dtype=torch.float32):
        self.head, self.narrow, self.dtype = head, narrow, dtype
        self.dilation = 12  # of the segmentation head
        self.training, self.learning = None, False
        self.w = {}
        c = lambda full: max(1, (2 * full + narrow) // (2 * narrow))
        self.conv_weight("conv1a", c(64), 3, 3)
        for name, i, m, o, stride, _, _ in BASIC:
            self.bn_weight(f"{name}.bn_branch2a", c(i))
            self.conv_weight(f"{name}.conv_branch2a", c(m), c(i), 3)
            self.bn_weight(f"{name}.bn_branch2b1", c(m))
            self.conv_weight(f"{name}.conv_branch2b1", c(o), c(m), 3)
            if i != o or stride != 1:
                self.conv_weight(f"{name}.conv_branch1", c(o), c(i), 1)
        for name, i, m, o, _ in BOTTLENECK:
            self.bn_weight(f"{name}.bn_branch2a", c(i))
            self.conv_weight(f"{name}.conv_branch2a", c(m), c(i), 1)
            self.bn_weight(f"{name}.bn_branch2b1", c(m))
            self.conv_weight(f"{name}.conv_branch2b1", c(2 * m), c(m), 3)
            self.bn_weight(f"{name}.bn_branch2b2", c(2 * m))
            self.conv_weight(f"{name}.conv_branch2b2", c(o), c(2 * m), 1)
            self.conv_weight(f"{name}.conv_branch1", c(o), c(i), 1)
        self.bn_weight("bn7", c(4096))
        if head == "cam-psa":
            self.conv_weight("fc8", classes, c(4096), 1)
        elif head == "cam-paper":
            self.conv_weight("conv_cam", c(512), c(4096), 3)
            self.vector("conv_cam.bias", c(512))
            self.conv_weight("fc8", classes, c(512), 1)
            self.vector("fc8.bias", classes)
        elif head == "segmentation":
            self.conv_weight("seg1", c(512), c(4096), 3)
            self.vector("seg1.bias", c(512))
            self.conv_weight("seg2", classes, c(512), 3)
            self.vector("seg2.bias", classes)
        else:
            widths = [64, 128, 256] if head == "affinity-psa" else [128, 256, 512]
            widths = [c(v) for v in widths]
            for name, i, o in zip(["f8_3", "f8_4", "f8_5"], [512, 1024, 4096], widths):
                self.conv_weight(name, o, c(i), 1)
            k = sum(widths)
            # Distances are sums in the paper's form: features k times smaller keep W off 0. The factors spread W
            # over most of 0 to 1.
            self.conv_weight("f9", k, k, 1, 12.0 if head == "affinity-psa" else 16.0 / k)

    def vector(self, name, n):
        self.w[name] = torch.from_numpy(rule.weight(name, (n,))).to(self.dtype)

    def conv_weight(self, name, o, i, k, head_scale=1.0):
        name += ".weight"
        self.w[name] = torch.from_numpy(rule.weight(name, (o, i, k, k), head_scale)).to(self.dtype)

    def bn_weight(self, name, n):
        for suffix in ["weight", "bias", "running_mean", "running_var"]:
            self.vector(f"{name}.{suffix}", n)

    def conv(self, name, x, stride=1, dilation=1):
        w = self.w[f"{name}.weight"]
        padding = dilation if w.shape[2] == 3 else 0
        return F.conv2d(x, w, self.w.get(f"{name}.bias"), stride, padding, dilation)

    def act(self, name, x):
        p = [self.w[f"{name}.{s}"] for s in ["running_mean", "running_var", "weight", "bias"]]
        return F.relu(F.batch_norm(x, *p, training=self.learning, momentum=0.1, eps=1e-5))

    def drop(self, x, p):
        if self.training is None:
            return x
        seed, step = self.training
        n, c = x.shape[:2]
        draws = rule.Stream(seed, 4, self.dropouts, step).uniform(n * c)
        self.dropouts += 1
        kept = np.where(draws < np.float32(p), 0.0, 1.0 / (1.0 - p)).reshape(n, c, 1, 1)
        return x * torch.from_numpy(kept).to(x.dtype)

    def taps(self, x):
        self.dropouts = 0
        taps = {}
        x = self.conv("conv1a", x)
        for name, i, _, o, stride, d1, d2 in BASIC:
            a = self.act(f"{name}.bn_branch2a", x)
            if name == "b5":
                taps["conv4"] = a
            shortcut = x if i == o and stride == 1 else self.conv(f"{name}.conv_branch1", a, stride)
            y = self.conv(f"{name}.conv_branch2a", a, stride, d1)
            y = self.act(f"{name}.bn_branch2b1", y)
            x = self.conv(f"{name}.conv_branch2b1", y, 1, d2) + shortcut
        for name, _, _, _, p in BOTTLENECK:
            a = self.act(f"{name}.bn_branch2a", x)
            if name == "b6":
                taps["conv5"] = a
            y = self.conv(f"{name}.conv_branch2a", a)
            y = self.drop(self.act(f"{name}.bn_branch2b1", y), p)
            y = self.conv(f"{name}.conv_branch2b1", y, 1, 4)
            y = self.drop(self.act(f"{name}.bn_branch2b2", y), p)
            x = self.conv(f"{name}.conv_branch2b2", y) + self.conv(f"{name}.conv_branch1", a)
        taps["conv6"] = self.act("bn7", x)
        return taps

    def pooled_map(self, taps):
        if self.head == "cam-psa":
            return self.drop(taps["conv6"], 0.5)
        return F.relu(self.conv("conv_cam", taps["conv6"]))

    def logits(self, x):
        f = self.pooled_map(self.taps(x))
        pooled = f.mean(dim=(2, 3), keepdim=True)
        return self.conv("fc8", pooled)[:, :, 0, 0]

    def scores(self, taps):
        """Logits of the segmentation network, 1×C×h×w."""
        hidden = F.relu(self.conv("seg1", taps["conv6"], dilation=self.dilation))
        return self.conv("seg2", hidden, dilation=self.dilation)

    def cams(self, taps):
        """1×C×h×w, negatives cut to 0."""
        return F.relu(F.conv2d(self.pooled_map(taps), self.w["fc8.weight"]))

    def features(self, taps):
        parts = [F.elu(self.conv(n, taps[t])) for n, t in [("f8_3", "conv4"), ("f8_4", "conv5"), ("f8_5", "conv6")]]
        return F.elu(self.conv("f9", torch.cat(parts, dim=1)))


def multi_scale_cam(net, picture, present, epsilon):
    """L×H×W: scales 1, 0.5, 1.5, 2, each mirrored; cut at 0, upsampled, mirrored back, summed, normalised."""
    h, w = picture.shape[:2]
    total = 0
    for scale in [1.0, 0.5, 1.5, 2.0]:
        size = (round(w * scale), round(h * scale))
        scaled = np.asarray(Image.fromarray(picture).resize(size, Image.BICUBIC))
        for flipped in [False, True]:
            x = normalize(scaled[:, ::-1].copy() if flipped else scaled)
            cam = net.cams(net.taps(x))[:, present]
            cam = F.interpolate(cam, (h, w), mode="bilinear", align_corners=False)[0].numpy()
            total = total + (cam[:, :, ::-1] if flipped else cam)
    return total / (total.max(axis=(1, 2), keepdims=True) + np.float32(epsilon))


def segmentation(net, picture, scales):
    """C×H×W: the softmax at the picture's size, averaged over the scales and their mirror images."""
    h, w = picture.shape[:2]
    total = 0
    for scale in scales:
        size = (round(w * scale), round(h * scale))
        scaled = np.asarray(Image.fromarray(picture).resize(size, Image.BICUBIC))
        for flipped in [False, True]:
            x = normalize(scaled[:, ::-1].copy() if flipped else scaled).to(net.dtype)
            logits = F.interpolate(net.scores(net.taps(x)), (h, w), mode="bilinear", align_corners=False)
            p = F.softmax(logits, dim=1)[0].numpy()
            total = total + (p[:, :, ::-1] if flipped else p)
    return total / (2 * len(scales))


def offsets(radius=5, inclusive=False):
    limit = radius * radius
    inside = lambda dy, dx: dy * dy + dx * dx < limit + inclusive
    reach = radius if inclusive else radius - 1
    first = [(0, dx) for dx in range(1, reach + 1)]
    rest = [(dy, dx) for dy in range(1, reach + 1) for dx in range(-reach, reach + 1)]
    return [o for o in first + rest if inside(*o)]


def exists(h, w, dy, dx, border):
    """h×w mask of first pixels."""
    y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    if border == "psa":
        return (y < h - 4) & (x >= 4) & (x < w - 4)
    return (y + dy < h) & (x + dx >= 0) & (x + dx < w)


def affinities(features, mean, border, stencil=None):
    """P×h×w f64 of K×h×w features, NaN where a pair does not exist."""
    f = np.asarray(features, np.float64)
    _, h, w = f.shape
    planes = []
    for dy, dx in stencil or offsets():
        plane = np.full((h, w), np.nan)
        ys, xs = np.nonzero(exists(h, w, dy, dx, border))
        d = np.abs(f[:, ys, xs] - f[:, ys + dy, xs + dx])
        plane[ys, xs] = np.exp(-(d.mean(0) if mean else d.sum(0)))
        planes.append(plane)
    return np.stack(planes)


def walk(affinity, maps, beta, steps):
    """T^t M with T dense, N×N in f64."""
    p, h, w = affinity.shape
    matrix = np.eye(h * w)
    for plane, (dy, dx) in zip(affinity, offsets()):
        ys, xs = np.nonzero(~np.isnan(plane))
        a, b = ys * w + xs, (ys + dy) * w + xs + dx
        matrix[a, b] = matrix[b, a] = plane[ys, xs].astype(np.float64) ** beta
    transition = matrix / matrix.sum(axis=1, keepdims=True)
    power = np.linalg.matrix_power(transition, steps)
    flat = np.asarray(maps, np.float64).reshape(maps.shape[0], -1)
    return (flat @ power.T).reshape(maps.shape)


def crf(picture, scores, iterations=10):
    """L×H×W posteriors by pydensecrf, as the authors' code calls it."""
    labels, h, w = scores.shape
    unary = -np.log(np.clip(scores, 1e-5, 1.0)).reshape(labels, -1).astype(np.float32)
    d = dcrf.DenseCRF2D(w, h, labels)
    d.setUnaryEnergy(np.ascontiguousarray(unary))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.array(picture, order="C"), compat=10)
    return np.array(d.inference(iterations)).reshape(labels, h, w)


def with_background(maps, alpha):
    return np.concatenate([(1 - maps.max(0, keepdims=True)) ** np.float32(alpha), maps])


def rules(strong, weak):
    """Confident labels as positions: objects by the strong background, background by the weak one, else 255."""
    label = np.where(strong == 0, 255, strong)
    return np.where(weak == 0, 0, label)


def pool(planes, block=STRIDE):
    """Zero-padded right and bottom to a multiple of the block, averaged over block²."""
    l, h, w = planes.shape
    padded = np.pad(planes, ((0, 0), (0, -h % block), (0, -w % block)))
    shape = (l, padded.shape[1] // block, block, padded.shape[2] // block, block)
    return padded.reshape(shape).mean(axis=(2, 4))


def grid_labels(strong, weak):
    """psa's labels on the grid: the posteriors averaged, then the argmax; no score at all is neutral."""
    strong, weak = pool(strong), pool(weak)
    label = rules(strong.argmax(0), weak.argmax(0))
    return np.where(np.maximum(strong.max(0), weak.max(0)) < 1e-5, 255, label)


def affinity_loss(features, labels, mean, border, psa):
    """A scalar of N×K×h×w features under N×h×w labels, by autograd."""
    n, _, h, w = features.shape
    sums = {"bg": [], "fg": [], "neg": []}
    for dy, dx in offsets():
        ys, xs = np.nonzero(exists(h, w, dy, dx, border))
        d = (features[:, :, ys, xs] - features[:, :, ys + dy, xs + dx]).abs()
        affinity = torch.exp(-(d.mean(1) if mean else d.sum(1)))
        a, b = labels[:, ys, xs], labels[:, ys + dy, xs + dx]
        known = (a < 255) & (b < 255)
        for kind, mask in [("bg", known & (a == b) & (a == 0)), ("fg", known & (a == b) & (a > 0)), ("neg", known & (a != b))]:
            sums[kind].append(affinity[torch.from_numpy(mask)])
    epsilon = 1e-5 if psa else 0.0
    value = {}
    for kind, parts in sums.items():
        v = torch.cat(parts)
        terms = -torch.log(v + epsilon) if kind != "neg" else -torch.log(1.0 + epsilon - v)
        value[kind] = terms.sum() / (len(v) + epsilon)
    return (value["bg"] + value["fg"] + 2 * value["neg"]) * (0.25 if psa else 1.0)
