//! An opcode and its modifiers, taken one by one so that none is overlooked.

use super::Result;
use crate::soft::Rounding;

/// `ld.global.v4.f32` as base and modifiers.
#[derive(Clone, Debug)]
pub(crate) struct Opcode {
    pub base: String,
    modifiers: Vec<String>,
}

impl Opcode {
    pub fn new(text: &str) -> Self {
        let mut parts = text.split('.').map(str::to_owned);
        let base = parts.next().unwrap_or_default();
        Self { base, modifiers: parts.collect() }
    }

    /// Takes a modifier, if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.modifiers.iter().position(|m| m == name);
        if let Some(at) = at {
            self.modifiers.remove(at);
        }
        at.is_some()
    }

    /// Takes the first of some modifiers that is there.
    pub fn one_of(&mut self, names: &[&str]) -> Option<String> {
        let at = self.modifiers.iter().position(|m| names.contains(&m.as_str()))?;
        Some(self.modifiers.remove(at))
    }

    /// Takes the last modifier: usually the type.
    pub fn last(&mut self) -> Result<String> {
        self.modifiers.pop().ok_or_else(|| "a type is missing".to_owned())
    }

    /// Takes the first modifier.
    pub fn first(&mut self) -> Result<String> {
        if self.modifiers.is_empty() {
            Err("a modifier is missing".to_owned())
        } else {
            Ok(self.modifiers.remove(0))
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.modifiers.iter().any(|m| m == name)
    }

    /// Takes all that is left: for hints that mean nothing here.
    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.modifiers)
    }

    /// Takes a direction of rounding and whether it is to an integral value.
    pub fn rounding(&mut self) -> Option<(Rounding, bool)> {
        let name = self.one_of(&["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"])?;
        Some(match name.as_str() {
            "rn" => (Rounding::Nearest, false),
            "rz" => (Rounding::Zero, false),
            "rm" => (Rounding::Down, false),
            "rp" => (Rounding::Up, false),
            "rna" => (Rounding::Away, false),
            "rni" => (Rounding::Nearest, true),
            "rzi" => (Rounding::Zero, true),
            "rmi" => (Rounding::Down, true),
            _ => (Rounding::Up, true),
        })
    }

    /// An error when modifiers are left that nobody took.
    pub fn finish(&self) -> Result<()> {
        match self.modifiers.first() {
            None => Ok(()),
            Some(m) => Err(format!("the modifier `.{m}` is not supported here")),
        }
    }
}
