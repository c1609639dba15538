//! The three networks and what they share: the backbone, parameters, initialisation.

pub mod affinity_net;
pub mod cam_net;
pub mod init;
pub mod module;
pub mod resnet38;
pub mod segmentation_net;

use crate::Result;
use crate::tape::Var;
use module::{Forward, Parameters};

pub use affinity_net::AffinityNet;
pub use cam_net::{CamHead, CamNet, Classifier};
pub use resnet38::{ResNet38, Taps};
pub use segmentation_net::SegmentationNet;

/// A network: names its parameters and computes its output from a normalised N×H×W×3 image.
pub trait Network: Sync {
    /// What a checkpoint of it is called: `cam`, `affinity` or `segmentation`.
    fn kind(&self) -> &'static str;

    /// Fresh parameters, drawn from `seed`.
    fn parameters(&self, seed: u64) -> Result<Parameters>;

    /// The network's output: `logits` (cam N×C, segmentation N×h×w×C) or `features` (affinity N×h×w×K).
    fn forward(&self, forward: &mut Forward<'_>, image: &Var) -> Result<Var>;
}
