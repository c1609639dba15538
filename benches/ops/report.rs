//! The table that a run ends with, in Markdown.

use crate::machine::Machine;
use crate::peer::Peer;
use crate::row::Row;

/// A row and what was measured.
pub struct Measured {
    /// Which.
    pub row: Row,
    /// Seconds of one execution, a value per sample.
    pub ours: Vec<f64>,
    /// The peer's, each taken right after one of ours; empty without a peer.
    pub theirs: Vec<f64>,
}

/// The fastest sample: other programs on the machine only ever add to a time.
fn fastest(samples: &[f64]) -> Option<f64> {
    samples.iter().copied().reduce(f64::min)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Measured {
    fn seconds(&self) -> f64 {
        fastest(&self.ours).unwrap_or(f64::NAN)
    }

    /// The least time that the machine's bounds allow, and which of them.
    fn bound(&self, machine: &Machine) -> (f64, &'static str) {
        let arithmetic = self.row.work.flops / machine.flops;
        let memory = self.row.work.bytes / machine.bandwidth(self.row.work.bytes);
        if arithmetic > memory { (arithmetic, "FMA") } else { (memory, "copy") }
    }

    fn line(&self, machine: &Machine) -> String {
        let (seconds, work) = (self.seconds(), self.row.work);
        let (bound, which) = self.bound(machine);
        let peer = match fastest(&self.theirs) {
            Some(peer) => format!("{} | {:.2}", milliseconds(peer), peer / seconds),
            None => "| ".into(),
        };
        format!(
            "| {} | {} | {} | {} | {:.2} | {} | {} | {:.0} % {which} | {peer} |",
            self.row.name,
            three_digits(work.flops / 1e9),
            three_digits(work.bytes / 1e6),
            milliseconds(seconds),
            median(&self.ours) / seconds,
            three_digits(work.flops / seconds / 1e9),
            three_digits(work.bytes / seconds / 1e9),
            100.0 * bound / seconds,
        )
    }
}

fn milliseconds(seconds: f64) -> String {
    three_digits(seconds * 1e3)
}

fn three_digits(value: f64) -> String {
    let digits = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    format!("{value:.*}", (2.0 - digits).clamp(0.0, 5.0) as usize)
}

/// Prints the machine, the rows and the convolutions' sums.
pub fn print(machine: &Machine, peer: Option<&Peer>, measured: &[Measured]) {
    println!(
        "\nThreads {}, {}: {:.0} GFLOP/s of fused multiply-adds; copies, GB/s read and written, by size:",
        machine.threads,
        machine.instructions,
        machine.flops / 1e9
    );
    let copies =
        machine.copies.iter().map(|(size, speed)| format!("{} MiB {:.0}", size / 1048576.0, speed / 1e9));
    println!("{}.", copies.collect::<Vec<_>>().join(", "));
    match peer {
        Some(peer) => println!("Peer: {}. Its layout is the faster of the two that it knows.", peer.name),
        None => println!("Without a peer."),
    }
    println!("Times are of the fastest sample; `median` is the median sample's over it.\n");
    println!(
        "| operation | GFLOP | MB | ms | median | GFLOP/s | GB/s | of the bound | peer ms | peer ms / ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    measured.iter().for_each(|row| println!("{}", row.line(machine)));
    sums(measured);
}

/// The convolutions by pass, each shape as often as the network has it.
fn sums(measured: &[Measured]) {
    let mut passes: Vec<&str> = measured.iter().filter_map(|m| Some(m.row.layers?.0)).collect();
    passes.dedup();
    if passes.is_empty() {
        return;
    }
    println!(
        "\n| convolutions, each as often as ResNet-38 has it | GFLOP | s | GFLOP/s | peer s | peer s / s |"
    );
    println!("|---|---|---|---|---|---|");
    let mut all = Sum::default();
    for pass in passes {
        let mut sum = Sum::default();
        for m in measured {
            if let Some((_, layers)) = m.row.layers.filter(|(p, _)| *p == pass) {
                sum.add(m, layers as f64);
                all.add(m, layers as f64);
            }
        }
        println!("| {pass} {}", sum.cells());
    }
    println!("| together {}", all.cells());
}

#[derive(Default)]
struct Sum {
    flops: f64,
    ours: f64,
    theirs: f64,
    /// Whether some row had no peer: a sum without it would flatter.
    incomplete: bool,
}

impl Sum {
    fn add(&mut self, measured: &Measured, times: f64) {
        self.flops += times * measured.row.work.flops;
        self.ours += times * measured.seconds();
        match fastest(&measured.theirs) {
            Some(seconds) => self.theirs += times * seconds,
            None => self.incomplete = true,
        }
    }

    fn cells(&self) -> String {
        let peer = match self.incomplete {
            true => " | ".into(),
            false => format!("{:.3} | {:.2}", self.theirs, self.theirs / self.ours),
        };
        format!(
            "| {:.0} | {:.3} | {:.0} | {peer} |",
            self.flops / 1e9,
            self.ours,
            self.flops / self.ours / 1e9
        )
    }
}
