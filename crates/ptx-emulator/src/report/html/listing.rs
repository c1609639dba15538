//! The source with its counts: a table a file, a row a line.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::highlight::Highlighter;
use super::{escape, grouped, per_cent, ratio, short};
use crate::counters::{Counters, GlobalCounters, LineCounters};
use crate::finding::Finding;

/// Global loads and stores of a line together.
pub fn global(line: &LineCounters) -> GlobalCounters {
    let (a, b) = (line.global_loads, line.global_stores);
    GlobalCounters {
        requests: a.requests + b.requests,
        sectors: a.sectors + b.sectors,
        bytes: a.bytes + b.bytes,
    }
}

/// Sectors that a line's bytes would fill if each were used whole.
pub fn ideal_sectors(line: &LineCounters) -> u64 {
    global(line).bytes.div_ceil(32).min(global(line).sectors)
}

/// Largest values of a column over all lines: what a full bar means.
#[derive(Default)]
struct Largest {
    instructions: u64,
    sectors: u64,
    wavefronts: u64,
}

/// The anchor of a line.
pub fn anchor(file: &str, line: u32) -> String {
    let plain: String = file.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{plain}-{line}")
}

/// The listings of all files that have counts or findings; those whose source is at hand come first, the one with the
/// most instructions at the top.
pub fn render(counters: &Counters, findings: &[Finding], source: &dyn Fn(&str) -> Option<String>) -> String {
    let mut files: BTreeMap<&str, Vec<&LineCounters>> = BTreeMap::new();
    for line in &counters.lines {
        files.entry(&line.file).or_default().push(line);
    }
    for finding in findings.iter().filter(|f| f.line > 0) {
        files.entry(&finding.file).or_default();
    }
    let largest = Largest {
        instructions: counters.lines.iter().map(|l| l.executed.warp).max().unwrap_or(0),
        sectors: counters.lines.iter().map(|l| global(l).sectors).max().unwrap_or(0),
        wavefronts: counters.lines.iter().map(|l| l.shared.wavefronts).max().unwrap_or(0),
    };
    let mut order: Vec<(Option<String>, u64, &str, Vec<&LineCounters>)> = files
        .into_iter()
        .map(|(file, lines)| (source(file), lines.iter().map(|l| l.executed.warp).sum(), file, lines))
        .collect();
    order.sort_by_key(|(text, instructions, file, _)| {
        (text.is_none(), std::cmp::Reverse(*instructions), *file)
    });
    let mut out = String::new();
    for (text, _, file, lines) in order {
        let here: Vec<&Finding> = findings.iter().filter(|f| f.file == file && f.line > 0).collect();
        table(&mut out, file, text.as_deref(), &lines, &here, counters, &largest);
    }
    out
}

const HEAD: &str = r#"<thead><tr><th class=no>line<th class=src>source<th title="Instructions issued, once a warp; the bar is against the busiest line">instructions<th title="Lanes that took part, of 32 a warp">lanes<th title="Floating-point operations; a fused multiply-add is two">FLOP<th title="32-byte sectors that loads, stores and atomics touched, once a request">sectors<th title="Sectors a request of one warp: 4 is what 32 neighbouring floats need">a request<th title="Bytes the lanes asked for, of the bytes in the sectors touched; more than 100 % where lanes share bytes">used<th title="Wavefronts of shared memory: 32 banks of 4 bytes each">wavefronts<th title="Wavefronts taken, over those needed without bank conflicts">conflicts<th title="Branches whose lanes went both ways, of all branches">divergent</thead>"#;

fn table(
    out: &mut String,
    file: &str,
    text: Option<&str>,
    lines: &[&LineCounters],
    findings: &[&Finding],
    counters: &Counters,
    largest: &Largest,
) {
    let counted: BTreeMap<u32, &LineCounters> = lines.iter().map(|l| (l.line, *l)).collect();
    let _ = write!(out, "<h3>{}</h3>", escape(file));
    if text.is_none() {
        out.push_str("<p class=note>The source is not at hand (<code>--source DIR</code> says where it is): lines with counts only.</p>");
    }
    let _ = write!(out, "<div class=scroll><table class=listing>{HEAD}<tbody>");
    let mut highlighter = Highlighter::default();
    let shown: Vec<(u32, &str)> = match text {
        Some(text) => text.lines().enumerate().map(|(i, line)| (i as u32 + 1, line)).collect(),
        None => {
            let mut all: Vec<u32> = counted.keys().copied().chain(findings.iter().map(|f| f.line)).collect();
            all.sort_unstable();
            all.dedup();
            all.into_iter().map(|n| (n, "")).collect()
        }
    };
    for (number, line) in shown {
        let code = highlighter.line(line);
        row(out, file, number, &code, counted.get(&number).copied(), counters, largest);
        for finding in findings.iter().filter(|f| f.line == number) {
            let _ =
                write!(out, "<tr class=finding><td class=no><td colspan=10>{}</tr>", finding_text(finding));
        }
    }
    out.push_str("</tbody></table></div>");
}

/// A finding as it stands under its line and in the list of findings.
pub fn finding_text(f: &Finding) -> String {
    let [x, y, z] = f.block;
    let mut out = format!("<b>{}</b> <span class=space>{}</span> {}", f.kind, f.space, escape(&f.message));
    if f.line > 0 {
        let _ = write!(out, "<small>block ({x}, {y}, {z}), warp {}, lane {}", f.warp, f.lane);
        if f.count > 1 {
            let _ = write!(out, "; {} lanes in all", grouped(f.count));
        }
        let _ = write!(out, " · <code>{}</code> (PTX line {})</small>", escape(&f.instruction), f.ptx_line);
    }
    out
}

/// A cell with a number over a bar.
fn bar(out: &mut String, class: &str, shown: &str, exact: u64, largest: u64) {
    let width = ratio(exact, largest) * 100.0;
    let _ = write!(
        out,
        "<td class=\"bar {class}\" style=\"--w:{width:.1}%\" title=\"{}\">{shown}",
        grouped(exact)
    );
}

/// How a share looks: poor, middling or good.
fn grade(share: f64) -> &'static str {
    if share < 0.5 {
        "poor"
    } else if share < 0.8 {
        "middling"
    } else {
        "good"
    }
}

fn row(
    out: &mut String,
    file: &str,
    number: u32,
    code: &str,
    counts: Option<&LineCounters>,
    counters: &Counters,
    largest: &Largest,
) {
    let id = anchor(file, number);
    let Some(c) = counts else {
        let _ = write!(
            out,
            "<tr class=quiet id=\"{id}\"><td class=no>{number}<td class=src>{code}<td colspan=9></tr>"
        );
        return;
    };
    let heat = ratio(c.executed.warp, largest.instructions);
    let _ = write!(out, "<tr id=\"{id}\" style=\"--h:{heat:.3}\"><td class=no>{number}<td class=src>{code}");
    let share = per_cent(ratio(c.executed.warp, counters.executed.warp));
    bar(
        out,
        "instr",
        &format!("{} <u>{share}</u>", short(c.executed.warp)),
        c.executed.warp,
        largest.instructions,
    );
    let lanes = ratio(c.executed.lanes, c.executed.warp * 32);
    let _ = write!(
        out,
        "<td class={} title=\"{} lanes\">{}",
        grade(lanes),
        grouped(c.executed.lanes),
        per_cent(lanes)
    );
    let flops = if c.flops > 0 { short(c.flops) } else { String::new() };
    let _ = write!(out, "<td title=\"{}\">{flops}", grouped(c.flops));
    let g = global(c);
    if g.requests > 0 {
        bar(out, "sect", &short(g.sectors), g.sectors, largest.sectors);
        let _ =
            write!(out, "<td title=\"{} requests\">{:.1}", grouped(g.requests), ratio(g.sectors, g.requests));
        let used = g.efficiency();
        let _ =
            write!(out, "<td class={} title=\"{} bytes\">{}", grade(used), grouped(g.bytes), per_cent(used));
    } else {
        out.push_str("<td colspan=3>");
    }
    if c.shared.requests > 0 {
        bar(out, "wave", &short(c.shared.wavefronts), c.shared.wavefronts, largest.wavefronts);
        let factor = ratio(c.shared.wavefronts, c.shared.ideal_wavefronts);
        let title = format!(
            "{} requests, {} wavefronts without conflicts",
            grouped(c.shared.requests),
            grouped(c.shared.ideal_wavefronts)
        );
        let _ =
            write!(out, "<td class={} title=\"{title}\">×\u{202f}{factor:.1}", grade(1.0 / factor.max(1.0)));
    } else {
        out.push_str("<td colspan=2>");
    }
    if c.branches > 0 {
        let share = ratio(c.divergent_branches, c.branches);
        let title = format!("{} of {} branches", grouped(c.divergent_branches), grouped(c.branches));
        let _ = write!(out, "<td class={} title=\"{title}\">{}", grade(1.0 - share), per_cent(share));
    } else {
        out.push_str("<td>");
    }
    out.push_str("</tr>");
}
