//! The page around the listing: the launch, the findings, the totals, the bounds.

use std::fmt::Write;

use super::listing::{self, anchor, finding_text, global, ideal_sectors};
use super::{escape, grouped, per_cent, ratio, short, time};
use crate::counters::{Counters, InstructionClass, LineCounters};
use crate::gpu::Gpu;
use crate::launch::Report;

const STYLE: &str = include_str!("style.css");

/// What the page is made from.
pub struct HtmlReport<'a> {
    /// Kernel's name.
    pub kernel: &'a str,
    /// The PTX file.
    pub ptx: &'a str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// What the launch found and counted.
    pub report: &'a Report,
    /// GPUs to bound the time on.
    pub gpus: &'a [Gpu],
    /// The text of a source file, by its name in `.loc`; `None` where it is not at hand.
    pub source: &'a dyn Fn(&str) -> Option<String>,
}

impl HtmlReport<'_> {
    /// The page as HTML, complete in itself.
    pub fn render(&self) -> String {
        let counters = &self.report.counters;
        let mut out = String::new();
        let name = escape(self.kernel);
        let _ = write!(
            out,
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{name}: what it does</title><style>{STYLE}</style><main>"
        );
        self.head(&mut out, &name);
        self.findings(&mut out);
        if counters.executed.warp > 0 {
            self.totals(&mut out);
            look_first(&mut out, counters);
            self.bounds(&mut out);
            mix(&mut out, counters);
        }
        out.push_str("<h2>The source, line by line</h2>");
        out.push_str(&listing::render(counters, &self.report.findings, self.source));
        out.push_str(FOOT);
        out.push_str("</main></html>\n");
        out
    }

    fn head(&self, out: &mut String, name: &str) {
        let triple = |[x, y, z]: [u32; 3]| match (y, z) {
            (1, 1) => grouped(u64::from(x)),
            (_, 1) => format!("{x} × {y}"),
            _ => format!("{x} × {y} × {z}"),
        };
        let findings = self.report.findings.len();
        let badge = match (findings, self.report.stopped) {
            (0, None) => "<span class=\"badge clean\">no findings</span>".to_owned(),
            (0, Some(stop)) => format!("<span class=\"badge bad\">stopped: {stop:?}</span>"),
            (n, _) => {
                format!("<span class=\"badge bad\">{n} finding{}</span>", if n == 1 { "" } else { "s" })
            }
        };
        let shared = match self.dynamic_shared {
            0 => String::new(),
            bytes => format!(", {} bytes of dynamic shared memory", grouped(u64::from(bytes))),
        };
        let _ = write!(
            out,
            "<header><h1>{name} {badge}</h1><p>{} blocks of {} threads{shared} · <code>{}</code></p></header>",
            triple(self.grid),
            triple(self.block),
            escape(self.ptx)
        );
    }

    fn findings(&self, out: &mut String) {
        if self.report.findings.is_empty() {
            return;
        }
        out.push_str("<h2>Findings</h2><ol class=findings>");
        for f in &self.report.findings {
            let place = match f.line {
                0 => String::new(),
                line => {
                    format!("<a href=\"#{}\">{}:{line}</a> ", anchor(&f.file, line), escape(&f.file))
                }
            };
            let _ = write!(out, "<li>{place}{}", finding_text(f));
        }
        out.push_str("</ol>");
    }

    fn totals(&self, out: &mut String) {
        let c = &self.report.counters;
        let mut tiles = String::new();
        let mut tile = |name: &str, value: String, note: String| {
            let _ =
                write!(tiles, "<div class=tile><span>{name}</span><b>{value}</b><small>{note}</small></div>");
        };
        tile(
            "thread-instructions",
            short(c.executed.lanes),
            format!("{} issued by {} warps", short(c.executed.warp), short(c.warps)),
        );
        tile(
            "active lanes",
            per_cent(ratio(c.executed.lanes, c.executed.warp * 32)),
            format!("{} of {} branches divergent", short(c.divergent_branches), short(c.branches)),
        );
        for (name, g) in [("global loads", c.global_loads), ("global stores", c.global_stores)] {
            if g.requests > 0 {
                let note = format!(
                    "used of {} sectors, {:.1} a request",
                    short(g.sectors),
                    ratio(g.sectors, g.requests)
                );
                tile(name, per_cent(g.efficiency()), note);
            }
        }
        let (l, s) = (c.shared_loads, c.shared_stores);
        if l.requests + s.requests > 0 {
            let (wavefronts, ideal) = (l.wavefronts + s.wavefronts, l.ideal_wavefronts + s.ideal_wavefronts);
            let note = format!("{} wavefronts, {} without conflicts", short(wavefronts), short(ideal));
            tile("bank conflicts", format!("×\u{202f}{:.2}", ratio(wavefronts, ideal)), note);
        }
        let sector_bytes = (c.global_loads.sectors + c.global_stores.sectors) * 32;
        if c.flops() > 0 {
            let note = format!("{:.2} a byte of the sectors touched", ratio(c.flops(), sector_bytes));
            tile("FLOP", short(c.flops()), note);
        }
        tile("barriers", short(c.barriers), "arrivals of warps".to_owned());
        let _ = write!(out, "<h2>In all</h2><div class=tiles>{tiles}</div>");
    }

    fn bounds(&self, out: &mut String) {
        if self.gpus.is_empty() {
            return;
        }
        out.push_str(
            "<h2>Bounds on the time</h2><p class=note>What the counts need at least at a GPU's peak rates, each resource alone \
             and all multiprocessors busy. A bound, not a prediction: latency, occupancy and caches are not in it.</p><div class=gpus>",
        );
        for gpu in self.gpus {
            let bound = self.report.counters.lower_bound(gpu);
            let _ = write!(
                out,
                "<div class=gpu><span>{}</span><b>≥ {}</b><table>",
                escape(bound.gpu),
                time(bound.seconds())
            );
            for (resource, seconds) in bound.resources.iter().filter(|r| r.1 > 0.0).take(5) {
                let width = seconds / bound.seconds() * 100.0;
                let _ = write!(
                    out,
                    "<tr><td>{resource}<td class=\"bar instr\" style=\"--w:{width:.1}%\">{}",
                    time(*seconds)
                );
            }
            out.push_str("</table></div>");
        }
        out.push_str("</div>");
    }
}

/// The lines that waste most of a resource: sectors, wavefronts, lanes.
fn look_first(out: &mut String, counters: &Counters) {
    let inactive = |l: &LineCounters| l.executed.warp * 32 - l.executed.lanes;
    let all_sectors = counters.global_loads.sectors + counters.global_stores.sectors;
    let all_wavefronts = counters.shared_loads.wavefronts + counters.shared_stores.wavefronts;
    type Waste<'a> = (&'a str, u64, &'a dyn Fn(&LineCounters) -> u64);
    let wastes: [Waste<'_>; 3] = [
        ("sectors beyond those that the bytes would fill", all_sectors, &|l| {
            global(l).sectors - ideal_sectors(l)
        }),
        ("wavefronts of bank conflicts", all_wavefronts, &|l| {
            l.shared.wavefronts - l.shared.ideal_wavefronts
        }),
        ("lanes that did not take part", counters.executed.warp * 32, &inactive),
    ];
    let mut rows = String::new();
    for (what, all, waste) in wastes {
        let mut lines: Vec<&LineCounters> = counters.lines.iter().filter(|l| waste(l) * 50 > all).collect();
        lines.sort_by_key(|l| std::cmp::Reverse(waste(l)));
        for line in lines.into_iter().take(3) {
            let _ = write!(
                rows,
                "<tr><td><a href=\"#{}\">{}:{}</a><td class=number>{}<td>{what}<td class=number>{} of all",
                anchor(&line.file, line.line),
                escape(&line.file),
                line.line,
                grouped(waste(line)),
                per_cent(ratio(waste(line), all))
            );
        }
    }
    if !rows.is_empty() {
        let _ = write!(out, "<h2>Where to look first</h2><table class=plain>{rows}</table>");
    }
}

/// Instructions by class, the most frequent first.
fn mix(out: &mut String, counters: &Counters) {
    let mut classes: Vec<_> =
        InstructionClass::ALL.into_iter().map(|c| (c.name(), counters.class(c))).collect();
    classes.retain(|c| c.1.warp > 0);
    classes.sort_by_key(|c| std::cmp::Reverse(c.1.warp));
    let most = classes.first().map_or(0, |c| c.1.warp);
    out.push_str("<h2>Instructions by class</h2><table class=\"plain mix\">");
    for (name, executed) in classes {
        let share = per_cent(ratio(executed.warp, counters.executed.warp));
        let width = ratio(executed.warp, most) * 100.0;
        let _ = write!(
            out,
            "<tr><td>{name}<td class=\"bar instr\" style=\"--w:{width:.1}%\">{}<td class=number>{share}<td class=number>{} lanes",
            grouped(executed.warp),
            per_cent(ratio(executed.lanes, executed.warp * 32))
        );
    }
    out.push_str("</table>");
}

const FOOT: &str = "<footer><p>Counted exactly, instruction by instruction, on the CPU; the same launch gives the same page. \
Instructions are those of the PTX: the assembler of a real GPU may merge, drop or add some. Sectors are counted at the first-level \
cache, once a request, whether or not a cache would hit.</p></footer>";

#[cfg(test)]
mod tests {
    use super::HtmlReport;
    use crate::counters::{Counters, Executed, GlobalCounters, LineCounters, SharedCounters};
    use crate::finding::{Finding, FindingKind, Space};
    use crate::gpu::Gpu;
    use crate::launch::Report;

    const SOURCE: &str = "// A kernel.\nout[i] = tile[31 - t] < 1;\n";

    fn report() -> Report {
        let global = GlobalCounters { requests: 4, sectors: 64, bytes: 512 };
        let shared = SharedCounters { requests: 4, wavefronts: 32, ideal_wavefronts: 4, bytes: 512 };
        let executed = Executed { warp: 40, lanes: 640 };
        let line = LineCounters {
            file: "k.cu".to_owned(),
            line: 2,
            executed,
            global_stores: global,
            shared,
            branches: 4,
            divergent_branches: 1,
            ..LineCounters::default()
        };
        let header =
            LineCounters { file: "lost.cuh".to_owned(), line: 7, executed, ..LineCounters::default() };
        let counters = Counters {
            executed: Executed { warp: 80, lanes: 1280 },
            global_stores: global,
            shared_loads: shared,
            lines: vec![line, header],
            ..Counters::default()
        };
        let finding = Finding {
            kind: FindingKind::SharedRace,
            space: Space::Shared,
            kernel: "k<int>".to_owned(),
            block: [1, 0, 0],
            warp: 1,
            lane: 3,
            file: "k.cu".to_owned(),
            line: 2,
            ptx_line: 9,
            instruction: "ld.shared.f32 %f1, [%rd1];".to_owned(),
            message: "reads what warp 0 wrote <unordered>".to_owned(),
            count: 32,
        };
        Report { findings: vec![finding], counters, stopped: None }
    }

    fn page(report: &Report) -> String {
        HtmlReport {
            kernel: "k<int>",
            ptx: "k.ptx",
            grid: [4, 2, 1],
            block: [32, 1, 1],
            dynamic_shared: 1024,
            report,
            gpus: &[Gpu::a100(), Gpu::h100()],
            source: &|file| (file == "k.cu").then(|| SOURCE.to_owned()),
        }
        .render()
    }

    #[test]
    fn a_line_shows_its_source_counts_and_findings() {
        let html = page(&report());
        assert!(html.contains("<title>k&lt;int&gt;: what it does</title>"), "names are escaped");
        assert!(html.contains("1 finding<"), "one finding, singular");
        let row = html.split("id=\"k-cu-2\"").nth(1).expect("the line has an anchor");
        let row = row.split("id=\"").next().expect("split gives one");
        assert!(
            row.contains("tile[<i class=n>31</i> - t] &lt; <i class=n>1</i>;"),
            "highlighted source: {row}"
        );
        assert!(row.contains("title=\"4 requests\">16.0"), "sectors a request");
        assert!(row.contains("4 requests, 4 wavefronts without conflicts\">×\u{202f}8.0"), "bank conflicts");
        assert!(row.contains("1 of 4 branches\">25\u{202f}%"), "divergence");
        assert!(
            row.contains("reads what warp 0 wrote &lt;unordered&gt;"),
            "the finding stands under its line"
        );
        assert!(html.contains("href=\"#k-cu-2\""), "the list of findings links there");
    }

    #[test]
    fn lines_without_source_and_waste_are_shown_too() {
        let html = page(&report());
        assert!(html.contains("id=\"lost-cuh-7\""));
        assert!(html.contains("The source is not at hand"));
        // 64 sectors for 512 bytes, which 16 would hold; 32 wavefronts for 4; half of the lanes.
        for (waste, what) in
            [("48", "sectors beyond"), ("28", "wavefronts of bank conflicts"), ("640", "lanes that")]
        {
            let cell = format!("<td class=number>{waste}<td>{what}");
            assert!(html.contains(&cell), "{cell}");
        }
    }

    #[test]
    fn nothing_outside_is_needed_and_markup_is_closed() {
        let html = page(&report());
        for outside in ["http:", "https:", "<script", "url(", "@import", "<link"] {
            assert!(!html.contains(outside), "{outside}");
        }
        for tag in ["table", "div", "main", "ol", "h2", "style", "header"] {
            let (open, close) =
                (html.matches(&format!("<{tag}")).count(), html.matches(&format!("</{tag}>")).count());
            // `<th`, `<td` and `<tr` may stay open, and `<header` begins with `<h`.
            assert_eq!(open, close, "{tag}");
        }
    }

    #[test]
    fn a_launch_that_did_not_run_has_a_page() {
        let html = page(&Report { stopped: Some(crate::Stop::LaunchLimit), ..Report::default() });
        assert!(html.contains("stopped: LaunchLimit"));
        assert!(!html.contains("NaN"));
    }
}
