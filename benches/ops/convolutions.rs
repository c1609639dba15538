//! The convolutions of ResNet-38 at full width on one image of 448×448 pixels, each distinct shape once.

use seedwalk::ops::conv2d::{Conv2dOptions, conv2d, input_gradient, weight_gradient};
use serde_json::json;

use crate::row::{Operation, Row, Work, forward, random, timed};

/// A distinct shape.
struct Layer {
    /// Channels in and out.
    channels: [usize; 2],
    /// Window: 3 or 1.
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Rows and columns of the input.
    size: usize,
    /// How many layers have it.
    layers: usize,
    /// Whether a run without a filter has it.
    by_default: bool,
}

/// [in, out, kernel, stride, dilation, input size, layers, by default (1) or not]
const LAYERS: [[usize; 8]; 20] = [
    [3, 64, 3, 1, 1, 448, 1, 0],
    [64, 128, 3, 2, 1, 448, 1, 0],
    [64, 128, 1, 2, 1, 448, 1, 0],
    [128, 128, 3, 1, 1, 224, 5, 1],
    [128, 256, 3, 2, 1, 224, 1, 0],
    [128, 256, 1, 2, 1, 224, 1, 0],
    [256, 256, 3, 1, 1, 112, 5, 1],
    [256, 512, 3, 2, 1, 112, 1, 0],
    [256, 512, 1, 2, 1, 112, 1, 0],
    [512, 512, 3, 1, 1, 56, 12, 1],
    [512, 1024, 1, 1, 1, 56, 1, 0],
    [512, 1024, 3, 1, 2, 56, 3, 0],
    [1024, 512, 3, 1, 2, 56, 2, 1],
    [1024, 512, 1, 1, 1, 56, 1, 1],
    [512, 1024, 3, 1, 4, 56, 1, 0],
    [1024, 2048, 1, 1, 1, 56, 2, 0],
    [2048, 1024, 1, 1, 1, 56, 1, 0],
    [1024, 2048, 3, 1, 4, 56, 1, 0],
    [2048, 4096, 1, 1, 1, 56, 2, 0],
    // The class scores of the CAM network.
    [4096, 20, 1, 1, 1, 56, 1, 0],
];

/// A row for each shape and pass.
pub fn rows() -> Vec<Row> {
    let layers = LAYERS.map(|[i, o, kernel, stride, dilation, size, layers, by_default]| Layer {
        channels: [i, o],
        kernel,
        stride,
        dilation,
        size,
        layers,
        by_default: by_default == 1,
    });
    let passes = ["forward", "input gradient", "weight gradient"];
    let pairs = passes.iter().flat_map(|pass| layers.iter().map(move |layer| (*pass, layer)));
    // The first layer's input is the image: nothing asks for its gradient.
    pairs.filter(|(pass, layer)| layer.channels[0] > 3 || *pass != "input gradient").map(row).collect()
}

fn row((pass, layer): (&'static str, &Layer)) -> Row {
    let Layer { channels: [i, o], kernel, stride, dilation, size, .. } = *layer;
    let padding = if kernel == 1 { 0 } else { dilation };
    let options = Conv2dOptions { stride, padding, dilation };
    let output = (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
    let input_shape = [1, size, size, i];
    let (weight_shape, output_shape) = ([o, kernel, kernel, i], [1, output, output, o]);
    // Of the input, the pixels that some window covers.
    let covered = if stride > kernel { output * output } else { size * size };
    let values = covered * i + weight_shape.iter().product::<usize>() + output * output * o;
    let flops = 2.0 * (output * output * o) as f64 * (kernel * kernel * i) as f64;

    let request = json!({
        "op": "conv2d", "pass": pass, "input": input_shape, "weight": weight_shape,
        "stride": stride, "padding": padding, "dilation": dilation,
    });
    let prepare = move || -> Operation {
        match pass {
            "forward" => forward(vec![random(&input_shape), random(&weight_shape)], move |tape, v| {
                conv2d(tape, &v[0], &v[1], None, options).expect("shapes fit")
            }),
            "input gradient" => {
                let (gradient, weight) = (random(&output_shape), random(&weight_shape));
                timed(move || input_gradient(&gradient, &weight, &input_shape, options).expect("shapes fit"))
            }
            _ => {
                let (gradient, input) = (random(&output_shape), random(&input_shape));
                timed(move || weight_gradient(&gradient, &input, &weight_shape, options).expect("shapes fit"))
            }
        }
    };
    let detail = match (stride, dilation) {
        (1, 1) => String::new(),
        (1, d) => format!(" dilation {d}"),
        (s, _) => format!(" stride {s}"),
    };
    let name = format!("conv2d {pass}/{i}→{o} {kernel}×{kernel}{detail} at {size}²");
    let row = Row::new(name, Work::new(flops, values), prepare).peer(request);
    Row { by_default: layer.by_default, layers: Some((pass, layer.layers)), ..row }
}
