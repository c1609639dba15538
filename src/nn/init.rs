//! Initial weights.

use crate::Result;
use crate::nn::module::{Parameters, Role};
use crate::rng::{Purpose, Stream};
use crate::tensor::{Tensor, element_count};

/// Declares a network's parameters with their initial values, each drawn from its own random stream
/// (seed, position), so that the value of one does not depend on the sizes of those before it.
pub struct Initialiser {
    seed: u64,
    drawn: u64,
    /// What has been declared so far.
    pub parameters: Parameters,
    /// Parameters declared from here on belong to a head.
    pub head: bool,
}

impl Initialiser {
    /// An initialiser without parameters.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: 0, parameters: Parameters::default(), head: false }
    }

    /// Normal values with mean 0 and the given standard deviation.
    fn normal(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor> {
        let mut stream = Stream::new(self.seed, Purpose::Initialisation, 0, self.drawn);
        self.drawn += 1;
        let len = element_count(shape)?;
        Tensor::new(shape, (0..len).map(|_| stream.normal() * deviation).collect())
    }

    /// `NAME.weight`, O×K×K×I, He normal: deviation √(2/fan-in), fan-in = K·K·I (He et al. 2015, §2.2).
    pub fn conv_he(&mut self, name: &str, [o, k, i]: [usize; 3]) -> Result<()> {
        self.conv_deviation(name, [o, k, i], (2.0 / (k * k * i) as f32).sqrt())
    }

    /// `NAME.weight`, O×K×K×I, normal with the given deviation.
    pub fn conv_deviation(&mut self, name: &str, [o, k, i]: [usize; 3], deviation: f32) -> Result<()> {
        let value = self.normal(&[o, k, k, i], deviation)?;
        self.parameters.declare(format!("{name}.weight"), value, Role::Weight, self.head);
        Ok(())
    }

    /// `NAME.weight`, O×1×1×I, uniform in ±gain·√(6/(I+O)) (Glorot and Bengio 2010, eq. 16).
    pub fn conv_xavier(&mut self, name: &str, [o, i]: [usize; 2], gain: f32) -> Result<()> {
        let mut stream = Stream::new(self.seed, Purpose::Initialisation, 0, self.drawn);
        self.drawn += 1;
        let bound = gain * (6.0 / (i + o) as f32).sqrt();
        let value = Tensor::new(&[o, 1, 1, i], (0..o * i).map(|_| stream.range(-bound, bound)).collect())?;
        self.parameters.declare(format!("{name}.weight"), value, Role::Weight, self.head);
        Ok(())
    }

    /// `NAME.bias`, O zeros.
    pub fn bias(&mut self, name: &str, o: usize) {
        self.parameters.declare(format!("{name}.bias"), Tensor::zeros(&[o]), Role::Bias, self.head);
    }

    /// `NAME.{weight,bias,running_mean,running_var}` of a batch normalisation that is the identity.
    pub fn batch_norm(&mut self, name: &str, channels: usize) {
        let entries = [
            ("weight", 1.0, Role::Norm),
            ("bias", 0.0, Role::Norm),
            ("running_mean", 0.0, Role::Statistic),
            ("running_var", 1.0, Role::Statistic),
        ];
        for (suffix, value, role) in entries {
            let value = Tensor::full(&[channels], value);
            self.parameters.declare(format!("{name}.{suffix}"), value, role, self.head);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::nn::{AffinityNet, CamHead, CamNet, Classifier, Network, ResNet38};
    use crate::ops::affinity::Reduction;
    use crate::tensor::Tensor;

    /// Deviation and largest absolute value.
    fn spread(tensor: &Tensor) -> (f64, f64) {
        let values = || tensor.data().iter().map(|v| f64::from(*v));
        let n = tensor.len() as f64;
        let mean = values().sum::<f64>() / n;
        (
            values().map(|v| (v - mean).powi(2)).sum::<f64>().sqrt() / n.sqrt(),
            values().fold(0.0, |m, v| m.max(v.abs())),
        )
    }

    /// What the authors' code begins with (spec §5 and its `resnet38_cls.py`): He normal for `f8_*`, Xavier uniform for
    /// `f9` with a gain of 4 and for `fc8` with 1, no bias.
    #[test]
    fn psas_heads_begin_as_in_the_authors_code() {
        let backbone = ResNet38::new(1, 4);
        let net = AffinityNet { backbone, feature_widths: [64, 128, 256], reduction: Reduction::Mean };
        let parameters = net.parameters(2).unwrap();
        for (name, shape) in [
            ("f8_3", [16, 1, 1, 128]),
            ("f8_4", [32, 1, 1, 256]),
            ("f8_5", [64, 1, 1, 1024]),
            ("f9", [112, 1, 1, 112]),
        ] {
            let weight = parameters.get(&format!("{name}.weight")).unwrap();
            assert_eq!(weight.shape(), shape, "{name}");
            let (deviation, largest) = spread(weight);
            let bound = 4.0 * (6.0 / 224.0f64).sqrt();
            let expected = if name == "f9" { bound / 3f64.sqrt() } else { (2.0 / shape[3] as f64).sqrt() };
            // The deviation of n draws is off by 1/√(2n) of it: 2048 of them and more, five times that.
            assert!((deviation / expected - 1.0).abs() < 5.0 / 64.0, "{name}: {deviation}, {expected}");
            assert!(name != "f9" || (0.99 * bound..=bound).contains(&largest), "{largest} of {bound}");
            assert!(parameters.get(&format!("{name}.bias")).is_none());
        }
        let net = CamNet { backbone, head: CamHead::Psa, classifier: Classifier::Xavier, classes: 20 };
        let parameters = net.parameters(2).unwrap();
        let bound = (6.0 / (1024.0 + 20.0f64)).sqrt();
        let (deviation, largest) = spread(parameters.get("fc8.weight").unwrap());
        assert!((deviation * 3f64.sqrt() / bound - 1.0).abs() < 5.0 / 200.0, "{deviation}, {bound}");
        assert!((0.99 * bound..=bound).contains(&largest), "{largest} of {bound}");
        assert!(parameters.get("fc8.bias").is_none());
    }
}
