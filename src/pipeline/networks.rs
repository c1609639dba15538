//! Networks from a configuration, and from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{Config, Preset, Width};
use crate::device::cuda::Gpu;
use crate::formats::{checkpoint, weights};
use crate::nn::module::Parameters;
use crate::nn::{AffinityNet, CamHead, CamNet, Classifier, Network, ResNet38, SegmentationNet};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The backbone that a configuration asks for.
pub fn backbone(width: Width) -> ResNet38 {
    ResNet38::new(width.numerator(), width.denominator())
}

/// The CAM network for so many classes, background not counted.
pub fn cam_net(config: &Config, classes: usize) -> CamNet {
    let head = if config.cam.head == Preset::Psa { CamHead::Psa } else { CamHead::Paper };
    let psa = config.preset == Preset::Psa;
    let classifier = if psa { Classifier::Xavier } else { Classifier::Small };
    CamNet { backbone: backbone(config.backbone.width), head, classifier, classes }
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
            "inclusive": config.affinity.inclusive,
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

impl<N> Loaded<N> {
    /// The same with its parameters on a GPU, or with `None` in host memory: the network computes where they are.
    ///
    /// # Errors
    /// The device's: out of memory above all.
    pub fn move_to(mut self, gpu: Option<&Arc<Gpu>>) -> Result<Self> {
        self.parameters.move_to(gpu)?;
        Ok(self)
    }
}

/// Weights as a file or checkpoint holds them, before a configuration is chosen for their network.
pub struct WeightFile {
    path: PathBuf,
    tensors: Vec<(String, Tensor)>,
    /// A checkpoint's own word on what it is.
    checkpoint: Option<Described>,
}

struct Described {
    kind: String,
    network: Value,
    classes: Vec<String>,
}

impl WeightFile {
    /// Reads a checkpoint of ours or any weight file.
    ///
    /// # Errors
    /// A file that cannot be read, or of no known format.
    pub fn read(path: &Path) -> Result<Self> {
        let path = path.to_path_buf();
        if !checkpoint::exists(&path) {
            return Ok(Self { tensors: weights::read_weights(&path)?, path, checkpoint: None });
        }
        let saved = checkpoint::load_weights(&path)?;
        let network = saved.configuration["network"].clone();
        let described = Described { kind: saved.kind, network, classes: saved.classes };
        Ok(Self { path, tensors: saved.tensors, checkpoint: Some(described) })
    }

    /// The preset that the weights are of: a checkpoint says so, a foreign file shows it in its head.
    /// `None` where both presets have the same head, as for segmentation.
    pub fn preset(&self) -> Option<Preset> {
        if let Some(described) = &self.checkpoint {
            return serde_json::from_value(described.network["preset"].clone()).ok();
        }
        // f8_3 has as many rows as conv1a (64 at full width) in the authors' code, twice as many in the paper.
        match (self.rows("f8_3.weight"), self.rows("conv1a.weight"), self.rows("fc8.weight")) {
            (Some(reduced), Some(first), _) if reduced == first => Some(Preset::Psa),
            (Some(reduced), Some(first), _) if reduced == 2 * first => Some(Preset::Paper),
            (None, _, Some(_)) if self.rows("fc8.bias").is_none() => Some(Preset::Psa),
            (None, _, Some(_)) => Some(Preset::Paper),
            _ => None,
        }
    }

    /// First dimension of a tensor.
    fn rows(&self, name: &str) -> Option<usize> {
        self.tensors.iter().find(|(n, _)| n == name).and_then(|(_, t)| t.shape().first().copied())
    }

    /// How many classes a head tells apart.
    fn classes(&self, name: &str) -> Result<usize> {
        self.rows(name).ok_or_else(|| {
            Error::invalid(format!("the file has no `{name}`: it holds no weights of this network"))
                .in_file(&self.path)
                .remedy("`seedwalk inspect FILE` lists what is in it")
        })
    }

    /// The caller's configuration, with the network's settings as a checkpoint has them.
    fn configure(&self, kind: &str, config: &Config) -> Result<Config> {
        let mut config = config.clone();
        let Some(described) = &self.checkpoint else { return Ok(config) };
        if described.kind != kind {
            let message = format!(
                "this is a checkpoint of the {} network, the {kind} network's is wanted",
                described.kind
            );
            return Err(Error::invalid(message)
                .in_file(&self.path)
                .remedy(format!("give the folder that `seedwalk train-{kind}` wrote to")));
        }
        config.preset = self.setting("preset")?;
        config.backbone.width = self.setting("width")?;
        match kind {
            "affinity" => {
                config.affinity.feature_widths = self.setting("feature_widths")?;
                config.affinity.reduction = self.setting("reduction")?;
                config.affinity.border = self.setting("border")?;
                config.affinity.radius = self.setting("radius")?;
                config.affinity.inclusive = self.setting("inclusive")?;
            }
            "cam" => config.cam.head = self.setting("head")?,
            "segmentation" => config.segmentation.dilation = self.setting("dilation")?,
            _ => {}
        }
        Ok(config)
    }

    /// One of the network's settings as a checkpoint has them.
    fn setting<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let stored = self.checkpoint.as_ref().map_or(&Value::Null, |c| &c.network[name]);
        // Checkpoints from before the setting leave those pairs out.
        let stored = if name == "inclusive" && stored.is_null() { json!(false) } else { stored.clone() };
        serde_json::from_value(stored).map_err(|e| {
            let message = format!("the checkpoint's network settings cannot be understood: `{name}`: {e}");
            Error::malformed(&self.path, message)
        })
    }

    fn fill<N: Network>(self, network: N, config: Config) -> Result<Loaded<N>> {
        let mut parameters = network.parameters(0)?;
        parameters.load(&self.tensors, false).map_err(|e| e.in_file(&self.path))?;
        Ok(Loaded { network, parameters, config, classes: self.checkpoint.map(|c| c.classes) })
    }

    /// The CAM network of these weights.
    ///
    /// # Errors
    /// Weights of another network, width or preset.
    pub fn cam(self, config: &Config) -> Result<Loaded<CamNet>> {
        let config = self.configure("cam", config)?;
        let network = cam_net(&config, self.classes("fc8.weight")?);
        self.fill(network, config)
    }

    /// AffinityNet of these weights.
    ///
    /// # Errors
    /// As [`WeightFile::cam`].
    pub fn affinity(self, config: &Config) -> Result<Loaded<AffinityNet>> {
        let config = self.configure("affinity", config)?;
        self.fill(affinity_net(&config), config)
    }

    /// The segmentation network of these weights.
    ///
    /// # Errors
    /// As [`WeightFile::cam`].
    pub fn segmentation(self, config: &Config) -> Result<Loaded<SegmentationNet>> {
        let config = self.configure("segmentation", config)?;
        let network = segmentation_net(&config, self.classes("seg2.weight")?);
        self.fill(network, config)
    }
}

/// The CAM network of a checkpoint or weight file, under a configuration.
///
/// # Errors
/// A file that cannot be read, weights of another network, width or preset.
pub fn load_cam(path: &Path, config: &Config) -> Result<Loaded<CamNet>> {
    WeightFile::read(path)?.cam(config)
}

/// AffinityNet of a checkpoint or weight file, under a configuration.
///
/// # Errors
/// As [`load_cam`].
pub fn load_affinity(path: &Path, config: &Config) -> Result<Loaded<AffinityNet>> {
    WeightFile::read(path)?.affinity(config)
}

/// The segmentation network of a checkpoint or weight file, under a configuration.
///
/// # Errors
/// As [`load_cam`].
pub fn load_segmentation(path: &Path, config: &Config) -> Result<Loaded<SegmentationNet>> {
    WeightFile::read(path)?.segmentation(config)
}
