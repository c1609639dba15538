//! The backbone: ResNet-38 "Model A1" (Wu, Shen and van den Hengel, *Wider or Deeper*, 2016), wide,
//! pre-activation, dilated to output stride 8 as Ahn and Kwak use it (CVPR 2018, §4).
//!
//! A unit computes `a = relu(bn(x))` and `y = branch(a) + shortcut`, where the shortcut is `x` when the
//! shape is unchanged and a 1×1 convolution of `a` otherwise. Every convolution of a branch but the
//! first has its own relu(bn(·)) before it. Three maps are tapped, each the `a` of a unit:
//!
//! | tap | where | shape for an H×W image, full width |
//! |---|---|---|
//! | `conv4` | entering b5 | H/8×W/8×512 |
//! | `conv5` | entering b6 | H/8×W/8×1024 |
//! | `conv6` | relu(bn7(·)) after b7 | H/8×W/8×4096 |

use crate::Result;
use crate::nn::init::Initialiser;
use crate::nn::module::Forward;
use crate::ops::conv2d::Conv2dOptions;
use crate::tape::Var;

/// Output stride: the image is this many times larger than the feature grid (rounded up).
pub const STRIDE: usize = 8;

/// Inner layout of a unit's branch.
#[derive(Debug, Clone, Copy)]
enum Branch {
    /// 3×3 in→mid, 3×3 mid→out, with a dilation each.
    Basic { dilation: [usize; 2] },
    /// 1×1 in→mid, 3×3 (dilated) mid→2·mid, 1×1 2·mid→out, with channel dropout.
    Bottleneck { dilation: usize, dropout: f32 },
}

/// One residual unit.
struct Unit {
    name: &'static str,
    /// Channels at full width: in, mid, out.
    channels: [usize; 3],
    stride: usize,
    branch: Branch,
}

const fn basic(name: &'static str, channels: [usize; 3], stride: usize, dilation: [usize; 2]) -> Unit {
    Unit { name, channels, stride, branch: Branch::Basic { dilation } }
}

/// The units in order, with their published names (table of spec §1).
const UNITS: [Unit; 17] = [
    basic("b2", [64, 128, 128], 2, [1, 1]),
    basic("b2_1", [128, 128, 128], 1, [1, 1]),
    basic("b2_2", [128, 128, 128], 1, [1, 1]),
    basic("b3", [128, 256, 256], 2, [1, 1]),
    basic("b3_1", [256, 256, 256], 1, [1, 1]),
    basic("b3_2", [256, 256, 256], 1, [1, 1]),
    basic("b4", [256, 512, 512], 2, [1, 1]),
    basic("b4_1", [512, 512, 512], 1, [1, 1]),
    basic("b4_2", [512, 512, 512], 1, [1, 1]),
    basic("b4_3", [512, 512, 512], 1, [1, 1]),
    basic("b4_4", [512, 512, 512], 1, [1, 1]),
    basic("b4_5", [512, 512, 512], 1, [1, 1]),
    basic("b5", [512, 512, 1024], 1, [1, 2]),
    basic("b5_1", [1024, 512, 1024], 1, [2, 2]),
    basic("b5_2", [1024, 512, 1024], 1, [2, 2]),
    Unit {
        name: "b6",
        channels: [1024, 512, 2048],
        stride: 1,
        branch: Branch::Bottleneck { dilation: 4, dropout: 0.3 },
    },
    Unit {
        name: "b7",
        channels: [2048, 1024, 4096],
        stride: 1,
        branch: Branch::Bottleneck { dilation: 4, dropout: 0.5 },
    },
];

/// The backbone at a width: every channel count of the full network times `numerator / denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResNet38 {
    numerator: usize,
    denominator: usize,
}

/// The three tapped maps.
pub struct Taps {
    /// N×H/8×W/8×512 (times the width), entering b5.
    pub conv4: Var,
    /// N×H/8×W/8×1024 (times the width), entering b6.
    pub conv5: Var,
    /// N×H/8×W/8×4096 (times the width), after b7.
    pub conv6: Var,
}

impl Default for ResNet38 {
    fn default() -> Self {
        Self { numerator: 1, denominator: 1 }
    }
}

impl ResNet38 {
    /// The backbone at width `numerator / denominator`; every layer keeps at least one channel.
    pub fn new(numerator: usize, denominator: usize) -> Self {
        Self { numerator: numerator.max(1), denominator: denominator.max(1) }
    }

    /// A channel count of the full network at this width, rounded to the nearest, at least 1.
    pub fn channels(&self, full: usize) -> usize {
        ((2 * full * self.numerator + self.denominator) / (2 * self.denominator)).max(1)
    }

    /// Whether a tensor's name is one of the backbone's, and not a head's.
    pub fn owns(name: &str) -> bool {
        let layer = name.split('.').next().unwrap_or(name);
        layer == "conv1a" || layer == "bn7" || UNITS.iter().any(|unit| unit.name == layer)
    }

    /// Whether one image's layers are too small to fill several threads, and its activations small enough
    /// to hold several images at once.
    pub fn is_narrow(&self) -> bool {
        self.channels(64) <= 16
    }

    /// Declares the backbone's parameters with random values.
    pub(crate) fn declare(&self, init: &mut Initialiser) -> Result<()> {
        init.conv_he("conv1a", [self.channels(64), 3, 3])?;
        for unit in &UNITS {
            let [i, m, o] = unit.channels.map(|c| self.channels(c));
            let name = |part: &str| format!("{}.{part}", unit.name);
            init.batch_norm(&name("bn_branch2a"), i);
            match unit.branch {
                Branch::Basic { .. } => {
                    init.conv_he(&name("conv_branch2a"), [m, 3, i])?;
                    init.batch_norm(&name("bn_branch2b1"), m);
                    init.conv_he(&name("conv_branch2b1"), [o, 3, m])?;
                }
                Branch::Bottleneck { .. } => {
                    let wide = self.channels(unit.channels[1] * 2);
                    init.conv_he(&name("conv_branch2a"), [m, 1, i])?;
                    init.batch_norm(&name("bn_branch2b1"), m);
                    init.conv_he(&name("conv_branch2b1"), [wide, 3, m])?;
                    init.batch_norm(&name("bn_branch2b2"), wide);
                    init.conv_he(&name("conv_branch2b2"), [o, 1, wide])?;
                }
            }
            if unit.has_projection() {
                init.conv_he(&name("conv_branch1"), [o, 1, i])?;
            }
        }
        init.batch_norm("bn7", self.channels(4096));
        Ok(())
    }

    /// Runs the backbone on a normalised image N×H×W×3.
    ///
    /// # Errors
    /// An image that is not N×H×W×3.
    pub fn forward(&self, forward: &mut Forward<'_>, image: &Var) -> Result<Taps> {
        let mut x = forward.conv("conv1a", image, conv3(1, 1))?;
        let (mut conv4, mut conv5) = (None, None);
        for unit in &UNITS {
            let tap = match unit.name {
                "b5" => &mut conv4,
                "b6" => &mut conv5,
                _ => {
                    x = forward.segment(x, |forward, x| Ok(unit.forward(forward, x)?.0))?;
                    continue;
                }
            };
            let (y, activated) = unit.forward(forward, x)?;
            *tap = Some(activated);
            x = y;
        }
        let conv6 = forward.batch_norm_relu("bn7", &x)?;
        match (conv4, conv5) {
            (Some(conv4), Some(conv5)) => Ok(Taps { conv4, conv5, conv6 }),
            _ => unreachable!("b5 and b6 are in the table of units"),
        }
    }
}

impl Unit {
    fn has_projection(&self) -> bool {
        self.channels[0] != self.channels[2]
            || self.stride != 1
            || matches!(self.branch, Branch::Bottleneck { .. })
    }

    /// Returns the unit's output and its `a` = relu(bn(x)).
    fn forward(&self, forward: &mut Forward<'_>, x: Var) -> Result<(Var, Var)> {
        let name = |part: &str| format!("{}.{part}", self.name);
        let a = forward.batch_norm_relu(&name("bn_branch2a"), &x)?;
        let shortcut = if self.has_projection() {
            drop(x); // only `a` is needed from here on
            forward.conv(&name("conv_branch1"), &a, conv1(self.stride))?
        } else {
            x
        };
        // The branch's last convolution adds the shortcut.
        let y = match self.branch {
            Branch::Basic { dilation } => {
                let options = conv3(self.stride, dilation[0]);
                let y = forward.conv_norm_relu(&name("conv_branch2a"), &name("bn_branch2b1"), &a, options)?;
                forward.conv_add(&name("conv_branch2b1"), &y, conv3(1, dilation[1]), &shortcut)?
            }
            Branch::Bottleneck { dilation, dropout } => {
                let options = conv1(self.stride);
                let y = forward.conv_norm_relu(&name("conv_branch2a"), &name("bn_branch2b1"), &a, options)?;
                let y = forward.dropout(&y, dropout)?;
                let (conv, norm) = (name("conv_branch2b1"), name("bn_branch2b2"));
                let y = forward.conv_norm_relu(&conv, &norm, &y, conv3(1, dilation))?;
                let y = forward.dropout(&y, dropout)?;
                forward.conv_add(&name("conv_branch2b2"), &y, conv1(1), &shortcut)?
            }
        };
        Ok((y, a))
    }
}

/// A 3×3 convolution whose padding equals its dilation, so that stride 1 keeps the size.
pub(crate) fn conv3(stride: usize, dilation: usize) -> Conv2dOptions {
    Conv2dOptions { stride, padding: dilation, dilation }
}

/// A 1×1 convolution.
pub(crate) fn conv1(stride: usize) -> Conv2dOptions {
    Conv2dOptions { stride, padding: 0, dilation: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of spec §1: 105.0 million weights of convolutions, 399 thousand million products at 448×448.
    #[test]
    fn the_full_network_has_as_many_weights_and_products_as_it_should() {
        let (mut weights, mut products, mut side) = (3 * 3 * 3 * 64, 3 * 3 * 3 * 64 * 448 * 448, 448);
        for unit in &UNITS {
            let [i, m, o] = unit.channels;
            side /= unit.stride;
            let branch = match unit.branch {
                Branch::Basic { .. } => 9 * i * m + 9 * m * o,
                Branch::Bottleneck { .. } => i * m + 9 * m * 2 * m + 2 * m * o,
            };
            let all = branch + if unit.has_projection() { i * o } else { 0 };
            weights += all;
            products += all * side * side;
        }
        assert_eq!(side, 56);
        assert_eq!((weights + 50_000) / 100_000, 1050, "{weights}");
        assert_eq!((products + 500_000_000) / 1_000_000_000, 399, "{products}");
        // The same, as declared: at an eighth of the width all but conv1a have a 64th of the weights.
        let mut init = Initialiser::new(0);
        ResNet38::new(1, 8).declare(&mut init).unwrap();
        let convolutions = init.parameters.iter().filter(|p| p.value.shape().len() == 4);
        let declared: usize = convolutions.map(|p| p.value.len()).sum();
        assert_eq!(declared, (weights - 1728) / 64 + 1728 / 8);
    }
}
