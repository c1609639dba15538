//! AffinityNet (Ahn and Kwak 2018, §3.2): features whose L1 distance between two pixels tells whether
//! they belong together, `W_ij = exp(−‖f_i − f_j‖₁)`.
//!
//! conv4, conv5 and conv6 are each reduced by a 1×1 convolution and ELU, concatenated, and mixed by
//! one more 1×1 convolution and ELU. Names as published: `f8_3`, `f8_4`, `f8_5`, `f9`.

use crate::Result;
use crate::nn::Network;
use crate::nn::init::Initialiser;
use crate::nn::module::{Forward, Mode, Parameters};
use crate::nn::resnet38::{ResNet38, Taps, conv1};
use crate::ops;
use crate::ops::affinity::Reduction;
use crate::tape::Var;
use crate::tensor::Tensor;

/// AffinityNet. Class-agnostic: it knows nothing of class names.
#[derive(Debug, Clone, Copy)]
pub struct AffinityNet {
    /// The backbone.
    pub backbone: ResNet38,
    /// Channels that conv4, conv5, conv6 are reduced to at full width: 128, 256, 512 (paper) or 64, 128, 256 (psa).
    pub feature_widths: [usize; 3],
    /// Whether distances are sums or means over channels; decides the scale of the initial `f9`.
    pub reduction: Reduction,
}

/// What one inference pass gives, where the network computed.
pub struct AffinityOutput {
    /// The backbone's maps.
    pub taps: Taps,
    /// N×h×w×K.
    pub features: Tensor,
}

impl AffinityNet {
    /// The reduced channel counts at this width.
    fn reduced(&self) -> [usize; 3] {
        self.feature_widths.map(|c| self.backbone.channels(c))
    }

    /// K, the number of feature channels.
    pub fn features(&self) -> usize {
        self.reduced().iter().sum()
    }

    fn head(&self, forward: &mut Forward<'_>, taps: &Taps) -> Result<Var> {
        let mut reduced = Vec::with_capacity(3);
        for (name, tap) in [("f8_3", &taps.conv4), ("f8_4", &taps.conv5), ("f8_5", &taps.conv6)] {
            let y = forward.conv(name, tap, conv1(1))?;
            reduced.push(ops::activation::elu(&mut forward.tape, &y)?);
        }
        let joined = ops::concat::concat(&mut forward.tape, &reduced.iter().collect::<Vec<_>>())?;
        drop(reduced);
        let y = forward.conv("f9", &joined, conv1(1))?;
        ops::activation::elu(&mut forward.tape, &y)
    }

    /// Runs an image N×H×W×3 without gradients where the parameters are.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn infer(&self, parameters: &Parameters, image: Tensor) -> Result<AffinityOutput> {
        let mut forward = Forward::new(parameters, Mode::Inference);
        let image = forward.constant(&image, "the image")?;
        let taps = self.backbone.forward(&mut forward, &image)?;
        let features = self.head(&mut forward, &taps)?.into_value();
        Ok(AffinityOutput { taps, features })
    }
}

impl Network for AffinityNet {
    fn kind(&self) -> &'static str {
        "affinity"
    }

    fn parameters(&self, seed: u64) -> Result<Parameters> {
        let mut init = Initialiser::new(seed);
        self.backbone.declare(&mut init)?;
        init.head = true;
        let taps = [512, 1024, 4096].map(|c| self.backbone.channels(c));
        let reduced = self.reduced();
        for ((name, from), to) in ["f8_3", "f8_4", "f8_5"].into_iter().zip(taps).zip(reduced) {
            init.conv_he(name, [to, 1, from])?;
        }
        let k = self.features();
        // With the sum over K channels an unscaled f9 makes every W underflow, and log(1 − W) then carries
        // no gradient. Features K times smaller give the sum the mean form's first distances.
        let gain = match self.reduction {
            Reduction::Mean => 4.0,
            Reduction::Sum => 4.0 / k as f32,
        };
        init.conv_xavier("f9", [k, k], gain)?;
        Ok(init.parameters)
    }

    fn forward(&self, forward: &mut Forward<'_>, image: &Var) -> Result<Var> {
        let taps = self.backbone.forward(forward, image)?;
        self.head(forward, &taps)
    }
}
