//! `convert-weights`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::session::{Outcome, Session, path_json};
use crate::formats::safetensors::Dtype;
use crate::formats::weights::{Layout, read_weights, write_weights};
use crate::nn::ResNet38;
use crate::{Error, Result, show_path};

/// Convert weights of other programs to safetensors, and ours for them
///
/// Reads PyTorch's .pth, MXNet's .params, NumPy's .npz, .safetensors and checkpoints of ours; nothing in
/// them is ever executed. Convolution weights become channels last (O×KH×KW×I); --channels-first writes
/// them as other programs read them.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk convert-weights runs/cam backbone.safetensors --backbone --f16
  seedwalk convert-weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params resnet38.safetensors
  seedwalk convert-weights runs/affinity for-pytorch.safetensors --channels-first")]
pub(super) struct ConvertWeights {
    /// File or checkpoint folder to read
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// File to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Leave out every tensor that is not the backbone's
    #[arg(long)]
    backbone: bool,
    /// Write convolutions as PyTorch has them, O×I×KH×KW, under the published names
    #[arg(long)]
    channels_first: bool,
    /// Write 16-bit floats: half the size, 11 bits of precision
    #[arg(long)]
    f16: bool,
}

impl ConvertWeights {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if self.output.extension().is_none_or(|e| e != "safetensors") {
            return Err(Error::usage("the output is a .safetensors file").in_file(&self.output));
        }
        if self.output.exists() && !session.common.overwrite {
            return Err(Error::invalid("the file is there already")
                .in_file(&self.output)
                .remedy("choose another name, or replace it with --overwrite"));
        }
        let mut tensors = read_weights(&self.input)?;
        if self.backbone {
            tensors.retain(|(name, _)| ResNet38::owns(name));
            if tensors.is_empty() {
                return Err(Error::invalid("no tensor has a name of ResNet-38").in_file(&self.input));
            }
        }
        let dtype = if self.f16 { Dtype::F16 } else { Dtype::F32 };
        let layout = if self.channels_first { Layout::ChannelsFirst } else { Layout::ChannelsLast };
        write_weights(&self.output, &tensors, dtype, layout)?;
        let values: usize = tensors.iter().map(|(_, t)| t.len()).sum();
        let text = format!("{} tensors, {values} values: {}", tensors.len(), show_path(&self.output));
        let json = json!({ "output": path_json(&self.output), "tensors": tensors.len(), "values": values });
        Ok(Outcome::new(text, json))
    }
}
