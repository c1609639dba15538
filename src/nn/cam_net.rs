//! The classification network whose activations are the seeds (Ahn and Kwak 2018, §3.1; Zhou et al.,
//! *Learning Deep Features for Discriminative Localization*, CVPR 2016).
//!
//! | head | from conv6 to logits | f, the map that enters GAP | w |
//! |---|---|---|---|
//! | paper | 3×3 conv 512, ReLU, GAP, fully connected C | the 512 maps | weights of the last layer |
//! | psa | channel dropout 0.5, GAP, `fc8` 1×1 without bias | conv6 | `fc8` |
//!
//! The class activation map of class c is `M_c = max(0, w_cᵀ f)`.

use crate::nn::init::Initialiser;
use crate::nn::module::{Forward, Parameters, Role};
use crate::nn::resnet38::{ResNet38, Taps, conv1, conv3};
use crate::nn::{Network, Taps as BackboneTaps};
use crate::ops;
use crate::tape::Var;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Which head sits on the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CamHead {
    /// As in the paper.
    Paper,
    /// As in the authors' published code and weights.
    Psa,
}

/// How the last layer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classifier {
    /// Normal with deviation 0.01: all classes start near probability ½ and the first gradients are calm, as a
    /// backbone that has learned nothing needs.
    Small,
    /// Uniform in ±√(6/(I + C)), as in the authors' code, which starts from a backbone trained on ImageNet.
    Xavier,
}

/// The CAM network for `classes` foreground classes.
#[derive(Debug, Clone, Copy)]
pub struct CamNet {
    /// The backbone.
    pub backbone: ResNet38,
    /// The head.
    pub head: CamHead,
    /// How `fc8` begins; nothing else depends on it.
    pub classifier: Classifier,
    /// Number of classes, background not counted.
    pub classes: usize,
}

/// What one inference pass gives: the taps where the network computed, the rest in host memory.
pub struct CamOutput {
    /// The backbone's maps.
    pub taps: BackboneTaps,
    /// N×C.
    pub logits: Tensor,
    /// N×h×w×C, negatives cut to 0, not normalised.
    pub class_activation_maps: Tensor,
}

impl CamNet {
    /// Channels of the paper's head at this width.
    fn hidden(&self) -> usize {
        self.backbone.channels(512)
    }

    /// f, the map that enters global average pooling.
    fn pooled_map(&self, forward: &mut Forward<'_>, conv6: &Var) -> Result<Var> {
        match self.head {
            CamHead::Psa => forward.dropout(conv6, 0.5),
            CamHead::Paper => {
                let y = forward.conv("conv_cam", conv6, conv3(1, 1))?;
                ops::relu(&mut forward.tape, &y)
            }
        }
    }

    fn logits(&self, forward: &mut Forward<'_>, f: &Var) -> Result<Var> {
        let pooled = ops::pooling::global_average_pooling(&mut forward.tape, f)?;
        let weight = forward.parameter("fc8.weight")?;
        let shape = [weight.shape()[0], weight.shape()[3]];
        let matrix = reshape(forward, &weight, &shape)?;
        let bias = match self.head {
            CamHead::Paper => Some(forward.parameter("fc8.bias")?),
            CamHead::Psa => None,
        };
        ops::linear::linear(&mut forward.tape, &pooled, &matrix, bias.as_ref())
    }

    /// Runs an image N×H×W×3 without gradients where the parameters are and returns taps,
    /// logits and class activation maps.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn infer(&self, parameters: &Parameters, image: Tensor) -> Result<CamOutput> {
        let mut forward = Forward::new(parameters, crate::nn::module::Mode::Inference);
        let image = forward.constant(&image, "the image")?;
        let taps: Taps = self.backbone.forward(&mut forward, &image)?;
        let f = self.pooled_map(&mut forward, &taps.conv6)?;
        let logits = self.logits(&mut forward, &f)?.into_value().to_host()?;
        let weight = forward.parameter("fc8.weight")?;
        let maps = ops::conv2d::conv2d(&mut forward.tape, &f, &weight, None, conv1(1))?;
        let maps = ops::relu(&mut forward.tape, &maps)?.into_value().to_host()?;
        Ok(CamOutput { taps, logits, class_activation_maps: maps })
    }
}

/// Reshape on the tape: the gradient takes the old shape back.
fn reshape(forward: &mut Forward<'_>, x: &Var, shape: &[usize]) -> Result<Var> {
    let old = x.shape().to_vec();
    let value = x.value().reshape(shape)?;
    Ok(forward.tape.record("reshape", value, &[x], move |g| Ok(vec![Some(g.reshape(&old)?)])))
}

impl Network for CamNet {
    fn kind(&self) -> &'static str {
        "cam"
    }

    fn parameters(&self, seed: u64) -> Result<Parameters> {
        if self.classes == 0 {
            return Err(Error::invalid("a CAM network needs at least one class"));
        }
        let mut init = Initialiser::new(seed);
        self.backbone.declare(&mut init)?;
        init.head = true;
        let conv6 = self.backbone.channels(4096);
        let inputs = match self.head {
            CamHead::Psa => conv6,
            CamHead::Paper => {
                init.conv_he("conv_cam", [self.hidden(), 3, conv6])?;
                init.bias("conv_cam", self.hidden());
                self.hidden()
            }
        };
        match self.classifier {
            Classifier::Small => init.conv_deviation("fc8", [self.classes, 1, inputs], 0.01)?,
            Classifier::Xavier => init.conv_xavier("fc8", [self.classes, inputs], 1.0)?,
        }
        if self.head == CamHead::Paper {
            let zeros = Tensor::zeros(&[self.classes]);
            init.parameters.declare("fc8.bias", zeros, Role::Bias, true);
        }
        Ok(init.parameters)
    }

    fn forward(&self, forward: &mut Forward<'_>, image: &Var) -> Result<Var> {
        let Taps { conv6, .. } = self.backbone.forward(forward, image)?;
        let f = self.pooled_map(forward, &conv6)?;
        self.logits(forward, &f)
    }
}
