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
