//! Networks from a configuration, and from files.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{Config, Preset, Width};
use crate::formats::{checkpoint, weights};
use crate::nn::module::Parameters;
use crate::nn::{AffinityNet, CamHead, CamNet, Network, ResNet38, SegmentationNet};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The backbone that a configuration asks for.
pub fn backbone(width: Width) -> ResNet38 {
    ResNet38::new(width.numerator(), width.denominator())
}

/// The CAM network for so many classes, background not counted.
pub fn cam_net(config: &Config, classes: usize) -> CamNet {
    let head = if config.cam.head == Preset::Psa { CamHead::Psa } else { CamHead::Paper };
    CamNet { backbone: backbone(config.backbone.width), head, classes }
}

/// AffinityNet.
pub fn affinity_net(config: &Config) -> AffinityNet {
    AffinityNet {
        backbone: backbone(config.backbone.width),
        feature_widths: config.affinity.feature_widths,
        reduction: config.affinity.reduction,
    }
}

/// The segmentation network for so many classes, background included.
pub fn segmentation_net(config: &Config, classes: usize) -> SegmentationNet {
    SegmentationNet {
        backbone: backbone(config.backbone.width),
        classes,
        dilation: config.segmentation.dilation,
    }
}

/// A network's settings as a checkpoint keeps them, so that whoever loads it needs no flags.
pub fn describe(config: &Config, kind: &str) -> Value {
    let base = json!({ "preset": config.preset, "width": config.backbone.width });
    let more = match kind {
        "affinity" => json!({
            "feature_widths": config.affinity.feature_widths,
            "reduction": config.affinity.reduction,
            "border": config.affinity.border,
            "radius": config.affinity.radius,
        }),
        "segmentation" => json!({ "dilation": config.segmentation.dilation }),
        "cam" => json!({ "head": config.cam.head }),
        _ => json!({}),
    };
    merge(base, more)
}

fn merge(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}

/// Weights with what is known of their network.
pub struct Loaded<N> {
    /// The network.
    pub network: N,
    /// Its parameters, every one taken from the file.
    pub parameters: Parameters,
    /// The configuration: the caller's, with the network's settings as the checkpoint has them.
    pub config: Config,
    /// Class names, where the file keeps them (checkpoints of ours).
    pub classes: Option<Vec<String>>,
}

struct Source {
    tensors: Vec<(String, Tensor)>,
    config: Config,
    classes: Option<Vec<String>>,
}

/// Reads a checkpoint of ours or any weight file. A checkpoint's own network settings win over the
/// caller's configuration.
fn read(path: &Path, kind: &str, config: &Config) -> Result<Source> {
    let mut config = config.clone();
    if !checkpoint::exists(path) {
        return Ok(Source { tensors: weights::read_weights(path)?, config, classes: None });
    }
    let saved = checkpoint::load_weights(path)?;
    if saved.kind != kind {
        let message =
            format!("this is a checkpoint of the {} network, the {kind} network's is wanted", saved.kind);
        return Err(Error::invalid(message)
            .in_file(path)
            .remedy(format!("give the folder that `seedwalk train-{kind}` wrote to")));
    }
    let stored = &saved.configuration["network"];
    let malformed = |e: serde_json::Error| {
        Error::malformed(path, format!("the checkpoint's network settings cannot be understood: {e}"))
    };
    let field = |name: &str| stored[name].clone();
    config.preset = serde_json::from_value(field("preset")).map_err(malformed)?;
    config.backbone.width = serde_json::from_value(field("width")).map_err(malformed)?;
    match kind {
        "affinity" => {
            config.affinity.feature_widths =
                serde_json::from_value(field("feature_widths")).map_err(malformed)?;
            config.affinity.reduction = serde_json::from_value(field("reduction")).map_err(malformed)?;
            config.affinity.border = serde_json::from_value(field("border")).map_err(malformed)?;
            config.affinity.radius = serde_json::from_value(field("radius")).map_err(malformed)?;
        }
        "cam" => config.cam.head = serde_json::from_value(field("head")).map_err(malformed)?,
        "segmentation" => {
            config.segmentation.dilation = serde_json::from_value(field("dilation")).map_err(malformed)?;
        }
        _ => {}
    }
    Ok(Source { tensors: saved.tensors, config, classes: Some(saved.classes) })
}

fn fill<N: Network>(network: N, source: Source, path: &Path) -> Result<Loaded<N>> {
    let mut parameters = network.parameters(0)?;
    parameters.load(&source.tensors, false).map_err(|e| e.in_file(path))?;
    Ok(Loaded { network, parameters, config: source.config, classes: source.classes })
}

/// Number of rows of a weight: how many classes a file's head tells apart.
fn rows(source: &Source, name: &str, path: &Path) -> Result<usize> {
    let found = source.tensors.iter().find(|(n, _)| n == name);
    found.and_then(|(_, t)| t.shape().first().copied()).ok_or_else(|| {
        Error::invalid(format!("the file has no `{name}`: it holds no weights of this network"))
            .in_file(path)
            .remedy("`seedwalk inspect FILE` lists what is in it")
    })
}

/// The CAM network of a checkpoint or weight file.
///
/// # Errors
/// A file that cannot be read, weights of another network, width or preset.
pub fn load_cam(path: &Path, config: &Config) -> Result<Loaded<CamNet>> {
    let source = read(path, "cam", config)?;
    let network = cam_net(&source.config, rows(&source, "fc8.weight", path)?);
    fill(network, source, path)
}

/// AffinityNet of a checkpoint or weight file.
///
/// # Errors
/// As [`load_cam`].
pub fn load_affinity(path: &Path, config: &Config) -> Result<Loaded<AffinityNet>> {
    let source = read(path, "affinity", config)?;
    let network = affinity_net(&source.config);
    fill(network, source, path)
}

/// The segmentation network of a checkpoint or weight file.
///
/// # Errors
/// As [`load_cam`].
pub fn load_segmentation(path: &Path, config: &Config) -> Result<Loaded<SegmentationNet>> {
    let source = read(path, "segmentation", config)?;
    let network = segmentation_net(&source.config, rows(&source, "seg2.weight", path)?);
    fill(network, source, path)
}
