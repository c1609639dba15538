"""The peers of `cargo bench --bench ops`: PyTorch and pydensecrf, whichever is installed.

Reads a JSON object a line from standard input and answers with one on standard output:
{"prepare": REQUEST} makes the inputs of a shape and chooses the faster memory layout,
{"run": N} executes it N times and answers the mean seconds,
{"measure": SECONDS} times it for about as long by the GPU's own clock, as the project's kernels are timed.
An empty line ends it.

A request's "device" is cpu or cuda:N, its "precision" f32, tf32 or bf16. On a GPU cuDNN may try its algorithms out, and
executions are replayed from a CUDA graph where PyTorch can capture them, so that the interpreter's time is not in them.
"""

import json
import statistics
import sys
import time

THREADS = int(sys.argv[1])

try:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(THREADS)
except ImportError:
    torch = None
try:
    import numpy
    import pydensecrf.densecrf
except ImportError:
    pydensecrf = None


DEVICE = "cpu"


def on_gpu():
    return DEVICE != "cpu"


def place(request):
    """Makes a request's device the one that tensors are made on, and its precision what products are taken in."""
    global DEVICE
    DEVICE = request.get("device", "cpu")
    if not torch:
        return
    torch.set_default_device(DEVICE)
    tf32 = request.get("precision") == "tf32"
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = on_gpu()
    if on_gpu():
        torch.cuda.set_device(DEVICE)
        torch.cuda.empty_cache()


def dtype(request):
    return torch.bfloat16 if request.get("precision") == "bf16" else torch.float32


def mean_seconds(run, count):
    start = time.perf_counter()
    for _ in range(count):
        run()
    if on_gpu():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def captured(run, seconds):
    """A callable that executes `run` several times by one launch of a CUDA graph, and how often."""
    count = max(1, min(50, int(2e-3 / max(seconds, 1e-7))))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            run()
    return graph.replay, count


def between_events(run):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def measure(run, seconds):
    """Median seconds of one execution by events, warm and with the second-level cache overwritten before each."""
    rough = min(mean_seconds(run, 3) for _ in range(3))
    try:
        replay, count = captured(run, rough)
        by = "graph"
    except Exception:  # what cannot be captured is launched one by one
        torch.cuda.synchronize()
        count, by = max(1, int(2e-3 / rough)), "launches"

        def replay():
            for _ in range(count):
                run()

    def samples(take, share):
        found, start = [], time.perf_counter()
        while len(found) < 3 or (len(found) < 200 and time.perf_counter() - start < share * seconds):
            found.append(take())
        return found

    replay()
    warm = samples(lambda: between_events(replay) / count, 0.75)
    scratch = torch.empty(2 * torch.cuda.get_device_properties(DEVICE).L2_cache_size, dtype=torch.uint8)

    def after_overwriting():
        scratch.fill_(255)
        return between_events(run)

    cold = samples(after_overwriting, 0.25)
    middle = statistics.median(warm)
    quarters = statistics.quantiles(warm, n=4)
    return {
        "seconds": middle,
        "spread": (quarters[2] - quarters[0]) / middle,
        "cold": statistics.median(cold),
        "by": by,
    }


def fastest(runs):
    """The quickest of several ways to do one thing, each warmed up."""
    return min(runs, key=lambda run: min(mean_seconds(run, 1) for _ in range(3)))


def layouts(make):
    """`make` returns a runner for a memory format; the better of channels last and planar."""
    return fastest([make(torch.channels_last), make(torch.contiguous_format)])


def planar(shape):
    """N×H×W×C as this project writes shapes, in PyTorch's order of dimensions."""
    n, h, w, c = shape
    return (n, c, h, w)


def forward_or_backward(request, make_inputs, operation):
    """A runner of either pass; backward is to all inputs, on a graph that is kept."""
    inputs = make_inputs()
    if request["pass"] == "forward":

        def run():
            with torch.no_grad():
                operation(*inputs)

        return run
    inputs = [t.requires_grad_() for t in inputs]
    output = operation(*inputs)
    seed = torch.ones_like(output) if output.dim() == 0 else torch.randn_like(output)
    return lambda: torch.autograd.grad(output, inputs, seed, retain_graph=True)


def on_map(operation, inputs=1):
    """An operation on maps of one shape, in both layouts."""

    def prepare(request):
        def make(layout):
            def tensors():
                shape = planar(request["input"])
                return [torch.randn(shape).contiguous(memory_format=layout) for _ in range(inputs)]

            return forward_or_backward(request, tensors, operation)

        return layouts(make)

    return prepare


def conv2d(request):
    i, o = planar(request["input"]), planar(request["weight"])
    stride, padding, dilation = ([request[k]] * 2 for k in ("stride", "padding", "dilation"))

    def make(layout):
        x = torch.randn(i, dtype=dtype(request)).contiguous(memory_format=layout)
        w = torch.randn(o, dtype=dtype(request)).contiguous(memory_format=layout)
        if request["pass"] == "forward":
            then = request.get("then")
            y = F.conv2d(x, w, None, stride, padding, dilation)
            add = torch.randn_like(y)
            norm = [torch.full((o[0],), value) for value in (0.01, 0.9, 1.1, 0.1)]

            def run():
                with torch.no_grad():
                    y = F.conv2d(x, w, None, stride, padding, dilation)
                    if then == "add":
                        y += add
                    elif then == "norm relu":
                        F.relu_(F.batch_norm(y, *norm))

            return run
        dy = torch.randn_like(F.conv2d(x, w, None, stride, padding, dilation))
        wanted = [request["pass"] == "input gradient", request["pass"] == "weight gradient", False]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(dy, x, w, None, stride, padding, dilation, False, [0, 0], 1, wanted)

    return layouts(make)


def batch_norm(request):
    channels = request["input"][3]
    mean, variance = torch.full((channels,), 0.01), torch.full((channels,), 0.9)

    def operation(x, scale, shift):
        if request["learning"]:
            return F.relu(F.batch_norm(x, None, None, scale, shift, training=True))
        return F.relu(F.batch_norm(x, mean, variance, scale, shift))

    def make(layout):
        def tensors():
            x = torch.randn(planar(request["input"])).contiguous(memory_format=layout)
            return [x, torch.full((channels,), 1.1), torch.full((channels,), 0.1)]

        return forward_or_backward(request, tensors, operation)

    return layouts(make)


def resize(request):
    return on_map(lambda x: F.interpolate(x, size=request["size"], mode="bilinear", align_corners=False))(request)


def average_pooling(request):
    return on_map(lambda x: F.avg_pool2d(x, 8, ceil_mode=True))(request)


def linear(request):
    x, w = torch.randn(request["input"]), torch.randn(request["weight"])

    def run():
        with torch.no_grad():
            F.linear(x, w)

    return run


def multi_label_loss(request):
    x, target = torch.randn(request["input"]), torch.ones(request["input"])

    def run():
        with torch.no_grad():
            F.multilabel_soft_margin_loss(x, target)

    return run


def cross_entropy(request):
    n, h, w, classes = request["input"]
    pixels = torch.arange(n * h * w)
    labels = torch.where(pixels % 9 == 0, 255, pixels % classes).reshape(n, h, w)

    def make(layout):
        x = torch.randn(planar(request["input"])).contiguous(memory_format=layout).requires_grad_()
        return lambda: torch.autograd.grad(F.cross_entropy(x, labels, ignore_index=255), x)

    return layouts(make)


def stencil(radius):
    offsets = [(0, dx) for dx in range(1, radius)]
    for dy in range(1, radius):
        offsets += [(dy, dx) for dx in range(1 - radius, radius) if dx * dx + dy * dy < radius * radius]
    return offsets


def affinity(request):
    """As the authors' code does it: the pixels whose whole half-stencil is on the grid, gathered for all offsets at once;
    or an offset at a time, which needs less memory."""
    n, h, w, channels = request["input"]
    reach = request["radius"] - 1
    offsets = stencil(request["radius"])

    def part(x, dy, dx):
        return x[..., dy : dy + h - reach, reach + dx : w - reach + dx]

    def together(x):
        there = torch.stack([part(x, dy, dx) for dy, dx in offsets], dim=2)
        return torch.exp(-(there - part(x, 0, 0).unsqueeze(2)).abs().mean(dim=1))

    def apart(x):
        here = part(x, 0, 0)
        return torch.stack([torch.exp(-(part(x, *o) - here).abs().mean(dim=1)) for o in offsets])

    def make(operation):
        return forward_or_backward(request, lambda: [torch.randn(n, channels, h, w) * 0.1], operation)

    return fastest([make(together), make(apart)])


def walk(request):
    """The dense transition matrix to the power of `steps` by squaring, as the authors' code does it, or as many
    products with a sparse one."""
    h, w = request["grid"]
    index = torch.arange(h * w).reshape(h, w)
    dense = torch.eye(h * w)
    for dy, dx in stencil(request["radius"]):
        a = index[: h - dy, max(0, -dx) : w - max(0, dx)].reshape(-1)
        b = index[dy:, max(0, dx) : w - max(0, -dx)].reshape(-1)
        values = torch.rand(len(a)) ** 8
        dense[a, b] = values
        dense[b, a] = values
    dense /= dense.sum(dim=1, keepdim=True)
    sparse = dense.to_sparse_csr()
    maps = torch.randn(h * w, request["maps"])
    doublings = request["steps"].bit_length() - 1

    def by_squaring():
        power = dense
        for _ in range(doublings):
            power = power @ power
        return power @ maps

    def by_steps():
        x = maps
        for _ in range(request["steps"]):
            x = sparse @ x
        return x

    return fastest([by_squaring, by_steps])


def photo(h, w):
    """The picture that `benches/ops/rows.rs` makes."""
    y, x, c = numpy.mgrid[0:h, 0:w, 0:3]
    patch = (x // 90 + 2 * (y // 80)) * 53 % 140
    noise = (x * 7919 + y * 104729 + c * 1301) % 23
    return ((patch * (c + 2) // 3 + x // (6 + c) + y // 9 + noise) % 256).astype(numpy.uint8)


def crf(request):
    (h, w), labels = request["size"], request["labels"]
    image = numpy.ascontiguousarray(photo(h, w))
    scores = numpy.abs(numpy.random.default_rng(1).standard_normal((labels, h * w))).clip(1e-5, 1)
    unary = numpy.ascontiguousarray(-numpy.log(scores), dtype=numpy.float32)

    def run():
        model = pydensecrf.densecrf.DenseCRF2D(w, h, labels)
        model.setUnaryEnergy(unary)
        model.addPairwiseGaussian(sxy=3, compat=3)
        model.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
        model.inference(request["iterations"])

    return run


TORCH = {
    "conv2d": conv2d,
    "batch_norm": batch_norm,
    "relu": on_map(lambda x: F.relu(x)),
    "elu": on_map(lambda x: F.elu(x)),
    "channel dropout": on_map(lambda x: F.dropout2d(x, 0.5, training=True)),
    "add": on_map(lambda a, b: a + b, 2),
    "concat": on_map(lambda a, b: torch.cat([a, b], dim=1), 2),
    "global average": on_map(lambda x: F.adaptive_avg_pool2d(x, 1)),
    "average pooling": average_pooling,
    "resize": resize,
    "linear": linear,
    "multi-label loss": multi_label_loss,
    "cross entropy": cross_entropy,
    "affinity": affinity,
    "walk": walk,
}
DENSE_CRF = {"crf": crf}


def main():
    prepared = None
    operations, names = {}, []
    if torch:
        operations.update(TORCH)
        names.append(f"PyTorch {torch.__version__.split('+')[0]}, {torch.get_num_threads()} threads")
    if pydensecrf:
        operations.update(DENSE_CRF)
        names.append("pydensecrf, one thread")
    if torch and torch.cuda.is_available():
        gpu = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        names[0] += f"; on GPUs with {gpu}"
    answer = {"peer": "; ".join(names)} if names else {"error": "neither torch nor pydensecrf is installed"}
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        request = json.loads(line)
        try:
            if "run" in request:
                answer = {"seconds": mean_seconds(prepared, request["run"])}
            elif "measure" in request:
                answer = measure(prepared, request["measure"])
            elif request["prepare"]["op"] not in operations:
                answer = {"error": "its package is not installed"}
            else:
                prepared = None  # gives its memory back first
                place(request["prepare"])
                prepared = operations[request["prepare"]["op"]](request["prepare"])
                answer = {"ready": True}
        except Exception as error:  # whatever the package raises is an answer, not an end
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
