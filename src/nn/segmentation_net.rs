//! The segmentation network (Ahn and Kwak 2018, §4): two atrous convolutions on conv6, as in DeepLab's
//! large-field-of-view head.
//!
//! conv6 → 3×3 conv, dilation 12, 512, ReLU → 3×3 conv, dilation 12, C with bias → logits N×h×w×C.

use crate::nn::Network;
use crate::nn::init::Initialiser;
use crate::nn::module::{Forward, Mode, Parameters};
use crate::nn::resnet38::{ResNet38, Taps, conv3};
use crate::ops;
use crate::tape::Var;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The segmentation network for `classes` classes, background included.
#[derive(Debug, Clone, Copy)]
pub struct SegmentationNet {
    /// The backbone.
    pub backbone: ResNet38,
    /// Number of classes, background included.
    pub classes: usize,
    /// Dilation of both convolutions of the head: 12, less where the feature grid is small.
    pub dilation: usize,
}

/// What one inference pass gives: the taps where the network computed, the logits in host memory.
pub struct SegmentationOutput {
    /// The backbone's maps.
    pub taps: Taps,
    /// N×h×w×C.
    pub logits: Tensor,
}

impl SegmentationNet {
    fn head(&self, forward: &mut Forward<'_>, conv6: &Var) -> Result<Var> {
        let y = forward.conv("seg1", conv6, conv3(1, self.dilation))?;
        let y = ops::relu(&mut forward.tape, &y)?;
        forward.conv("seg2", &y, conv3(1, self.dilation))
    }

    /// Runs an image N×H×W×3 without gradients where the parameters are.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn infer(&self, parameters: &Parameters, image: Tensor) -> Result<SegmentationOutput> {
        let mut forward = Forward::new(parameters, Mode::Inference);
        let image = forward.constant(&image, "the image")?;
        let taps = self.backbone.forward(&mut forward, &image)?;
        let logits = self.head(&mut forward, &taps.conv6)?.into_value().to_host()?;
        Ok(SegmentationOutput { taps, logits })
    }
}

impl Network for SegmentationNet {
    fn kind(&self) -> &'static str {
        "segmentation"
    }

    fn parameters(&self, seed: u64) -> Result<Parameters> {
        if self.classes < 2 {
            return Err(Error::invalid("a segmentation network needs background and at least one class"));
        }
        let mut init = Initialiser::new(seed);
        self.backbone.declare(&mut init)?;
        init.head = true;
        let (conv6, hidden) = (self.backbone.channels(4096), self.backbone.channels(512));
        init.conv_he("seg1", [hidden, 3, conv6])?;
        init.bias("seg1", hidden);
        init.conv_deviation("seg2", [self.classes, 3, hidden], 0.01)?;
        init.bias("seg2", self.classes);
        Ok(init.parameters)
    }

    fn forward(&self, forward: &mut Forward<'_>, image: &Var) -> Result<Var> {
        let taps = self.backbone.forward(forward, image)?;
        self.head(forward, &taps.conv6)
    }
}
