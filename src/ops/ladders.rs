//! The ladders of all operations in one table, and the choice of a rung by name (`--kernel conv2d=tf32`).

use super::{affinity, conv2d, crf, reduce, walk};
use crate::device::Precision;
use crate::device::cuda::{Gpu, Rung};
use crate::{Error, ErrorKind, Result};

/// One ladder: the kernels that compute one thing, from plain to fast.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The operation: its folder in `src/ops`.
    pub operation: &'static str,
    /// Which of its passes, as in `input gradient`.
    pub pass: &'static str,
    /// Whether `--kernel` decides about it.
    pub can_be_forced: bool,
    /// From plain to fast.
    pub rungs: Vec<Step>,
}

/// A rung with what it asks of a run.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Number, name, kernel, idea and bound.
    pub rung: Rung,
    /// What it multiplies in, where it multiplies in one precision only.
    pub precision: Option<Precision>,
    /// Whether it needs compute capability 8.0.
    pub needs_async_copies: bool,
}

impl Step {
    fn plain(rung: &Rung) -> Self {
        Self { rung: *rung, precision: None, needs_async_copies: false }
    }

    fn convolution(rung: &conv2d::cuda::Conv2dRung) -> Self {
        Self {
            rung: rung.rung,
            precision: Some(rung.precision),
            needs_async_copies: rung.needs_async_copies(),
        }
    }

    /// Whether a GPU as it is set can run it.
    ///
    /// # Errors
    /// Says what the rung needs: another precision, a newer GPU.
    pub fn check(&self, gpu: &Gpu, operation: &str) -> Result<()> {
        let name = self.rung.name;
        let unavailable = |message: String| Error::new(ErrorKind::Unavailable, message);
        if self.needs_async_copies && !gpu.has_async_copies() {
            let message =
                format!("rung `{name}` of {operation} needs compute capability 8.0, this is {gpu:?}");
            return Err(unavailable(message).remedy("choose a lower rung, or leave out --kernel"));
        }
        match self.precision {
            Some(precision) if precision != gpu.precision() => {
                let message = format!(
                    "rung `{name}` of {operation} multiplies in {precision}, and this run in {}",
                    gpu.precision()
                );
                Err(unavailable(message)
                    .remedy(format!("add --precision {precision}, or choose another rung")))
            }
            _ => Ok(()),
        }
    }
}

/// All ladders.
pub fn ladders() -> Vec<Ladder> {
    let ladder = |operation, pass, can_be_forced, rungs| Ladder { operation, pass, can_be_forced, rungs };
    let plain = |rungs: &[Rung]| rungs.iter().map(Step::plain).collect();
    let convolution = |rungs: &[conv2d::cuda::Conv2dRung], backward: bool| {
        rungs.iter().filter(|r| r.both_ways || !backward).map(Step::convolution).collect()
    };
    vec![
        ladder("conv2d", "forward", true, convolution(conv2d::cuda::LADDER, false)),
        ladder("conv2d", "input gradient", true, convolution(conv2d::cuda::LADDER, true)),
        ladder("conv2d", "weight gradient", true, convolution(conv2d::cuda::WEIGHT_LADDER, false)),
        ladder("affinity", "forward", true, plain(affinity::cuda::LADDER)),
        ladder("affinity", "gradient", true, plain(affinity::cuda::BACKWARD_LADDER)),
        ladder("walk", "forward", true, plain(walk::cuda::LADDER)),
        ladder("crf", "mean field", true, crf::cuda::LADDER.iter().map(|r| Step::plain(&r.rung)).collect()),
        ladder("reduce", "sum", false, plain(reduce::cuda::LADDER)),
    ]
}

/// A rung chosen for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    operation: &'static str,
    rung: &'static str,
}

/// Names with commas between, each once.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.join(", ")
}

impl Choice {
    /// Reads `conv2d=tf32`.
    ///
    /// # Errors
    /// Wrong usage: no `=`, an operation or a rung that there is not; names those that there are.
    pub fn parse(text: &str) -> Result<Self> {
        let all: Vec<Ladder> = ladders().into_iter().filter(|l| l.can_be_forced).collect();
        let operations = listed(all.iter().map(|l| l.operation));
        let Some((operation, name)) = text.split_once('=') else {
            return Err(Error::usage(format!("`{text}` names no rung of a ladder"))
                .remedy(format!("--kernel OPERATION=RUNG; operations: {operations}")));
        };
        let of: Vec<&Ladder> = all.iter().filter(|l| l.operation == operation).collect();
        let Some(known) = of.first().map(|l| l.operation) else {
            return Err(Error::usage(format!("`{operation}` has no ladder of kernels to choose from"))
                .remedy(format!("operations: {operations}")));
        };
        let mut rungs = of.iter().flat_map(|l| &l.rungs).map(|s| s.rung.name);
        match rungs.clone().find(|rung| *rung == name) {
            Some(rung) => Ok(Self { operation: known, rung }),
            None => Err(Error::usage(format!("{operation} has no rung `{name}`"))
                .remedy(format!("rungs of {operation}: {}", listed(&mut rungs)))),
        }
    }
}

/// Has operations on a GPU use the rungs that were chosen, wherever a pass has that rung. Set the precision before.
///
/// # Errors
/// A rung that this GPU, or this precision, cannot run.
pub fn force(gpu: &Gpu, choices: &[Choice]) -> Result<()> {
    for choice in choices {
        let all = ladders();
        let steps = all.iter().filter(|l| l.operation == choice.operation).flat_map(|l| &l.rungs);
        steps.filter(|s| s.rung.name == choice.rung).try_for_each(|s| s.check(gpu, choice.operation))?;
        gpu.force(choice.operation, Some(choice.rung));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_what_is_unknown_is_answered_with_what_is_known() {
        assert_eq!(Choice::parse("conv2d=tf32").unwrap(), Choice { operation: "conv2d", rung: "tf32" });
        assert_eq!(Choice::parse("walk=step").unwrap(), Choice { operation: "walk", rung: "step" });
        for (wrong, word) in [
            ("conv2d", "conv2d, affinity, walk, crf"),
            ("", "conv2d, affinity, walk, crf"),
            ("crf=hash", "uploaded, sorted, fused, chunks"),
            ("reduce=serial", "conv2d, affinity, walk, crf"),
            ("conv2d=", "direct, tiled, blocks, async, tf32, bf16"),
            ("conv2d=TF32", "direct, tiled, blocks, async, tf32, bf16"),
            ("affinity=direct", "gather, tiled"),
            ("walk=whole ", "step, whole, chebyshev"),
        ] {
            let error = Choice::parse(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
            assert!(error.how_to_mend().unwrap().contains(word), "{wrong}: {:?}", error.how_to_mend());
        }
    }

    #[test]
    fn a_pass_has_each_rung_once_in_ascending_order() {
        for ladder in ladders() {
            assert!(!ladder.rungs.is_empty());
            for pair in ladder.rungs.windows(2) {
                assert!(pair[0].rung.number < pair[1].rung.number, "{} {}", ladder.operation, ladder.pass);
            }
        }
    }
}
