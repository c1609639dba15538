//! The planted bugs: each is found, with the right kind, space and place, in whatever order warps and blocks run, and its
//! repaired twin gives no finding.
//!
//! The kernels are in `planted/*.cu`, and all that is expected is written there, above and beside the bug:
//!
//! ```text
//! // launch: grid=1 block=64 args=f32[64]=iota f32[64]    as on the command line; `=freed` is a buffer that was freed
//! // repaired: …                                          the twin's launch, where it is another
//! // expect: shared-race shared block=0 warp=1 lane=3     kind, space and as much of the place as is determined
//! // may: uninitialised-read shared                       what else the bug may entail
//! tile[t] = in[t]; // BUG                                 the line, or one of the lines, that is to be named
//! ```

use crate::support::{Device, Random, Shape, module, text};
use ptx_emulator::{Finding, FindingKind, Module, Options, ParameterBytes, Report, Space};

const FILES: [&str; 11] = [
    "async_copies",
    "barriers",
    "deadlock",
    "global_races",
    "launch",
    "misaligned",
    "out_of_bounds",
    "shared_races",
    "uninitialised",
    "use_after_free",
    "warp",
];

/// One planted bug.
struct Case {
    file: &'static str,
    kernel: String,
    launch: String,
    repaired: String,
    kind: FindingKind,
    space: Space,
    block: Option<[u32; 3]>,
    warp: Option<u32>,
    lane: Option<u32>,
    may: Vec<(FindingKind, Space)>,
    /// Lines marked `// BUG`, from 1.
    lines: Vec<u32>,
}

fn kind_named(name: &str) -> FindingKind {
    *FindingKind::ALL.iter().find(|k| k.name() == name).unwrap_or_else(|| panic!("no kind {name}"))
}

fn space_named(name: &str) -> Space {
    let all = [Space::Global, Space::Shared, Space::Local, Space::Register];
    *all.iter().find(|s| s.name() == name).unwrap_or_else(|| panic!("no space {name}"))
}

/// `3` or `3,2` or `3,2,1`, the rest filled up with `fill`.
fn triple(text: &str, fill: u32) -> [u32; 3] {
    let mut all = [fill; 3];
    for (slot, part) in all.iter_mut().zip(text.split(',')) {
        *slot = part.parse().unwrap_or_else(|_| panic!("no number: {part}"));
    }
    all
}

/// Reads the cases of one source file.
fn cases(file: &'static str) -> Vec<Case> {
    let source = text(&format!("planted/{file}.cu"));
    let mut cases = Vec::new();
    let mut notes: Vec<(&str, &str)> = Vec::new();
    for (i, line) in source.lines().enumerate() {
        if let Some(comment) = line.strip_prefix("// ") {
            if let Some((name @ ("launch" | "repaired" | "expect" | "may"), value)) = comment.split_once(": ")
            {
                notes.push((name, value));
            }
            continue;
        }
        let declaration = line.strip_prefix("KERNEL ").or_else(|| {
            let rest = line.strip_prefix("extern \"C\" __global__ void ")?;
            rest.split_once(") ").map(|r| r.1)
        });
        if let Some(declaration) = declaration {
            let kernel = declaration.split('(').next().expect("split gives one").to_owned();
            let note = |name: &str| notes.iter().find(|n| n.0 == name).map(|n| n.1);
            let launch = note("launch").unwrap_or_else(|| panic!("{kernel} has no launch")).to_owned();
            let expect = note("expect").unwrap_or_else(|| panic!("{kernel} expects nothing"));
            let mut words = expect.split(' ');
            let mut case = Case {
                file,
                kernel,
                repaired: note("repaired").map_or_else(|| launch.clone(), str::to_owned),
                launch,
                kind: kind_named(words.next().expect("a kind")),
                space: space_named(words.next().expect("a space")),
                block: None,
                warp: None,
                lane: None,
                may: Vec::new(),
                lines: Vec::new(),
            };
            for word in words {
                match word.split_once('=') {
                    Some(("block", v)) => case.block = Some(triple(v, 0)),
                    Some(("warp", v)) => case.warp = v.parse().ok(),
                    Some(("lane", v)) => case.lane = v.parse().ok(),
                    _ => panic!("{}: what is {word}?", case.kernel),
                }
            }
            for (_, value) in notes.iter().filter(|n| n.0 == "may") {
                let (kind, space) = value.split_once(' ').expect("kind and space");
                case.may.push((kind_named(kind), space_named(space)));
            }
            cases.push(case);
            notes.clear();
        }
        if line.ends_with("// BUG") {
            cases.last_mut().expect("a bug is in a kernel").lines.push(i as u32 + 1);
        }
    }
    cases
}

/// Runs a kernel as a launch note says.
fn run(module: &Module, kernel: &str, note: &str, options: &Options) -> Report {
    let mut device = Device::new(module);
    let mut options = options.clone();
    let mut shape = Shape { kernel, grid: [1; 3], block: [1; 3], shared: 0 };
    let mut parameters = ParameterBytes::new();
    let (shape_words, arguments) = note.split_once("args=").expect("args= are the last");
    for word in shape_words.split_whitespace() {
        match word.split_once('=') {
            Some(("grid", v)) => shape.grid = triple(v, 1),
            Some(("block", v)) => shape.block = triple(v, 1),
            Some(("shared", v)) => shape.shared = v.parse().expect("bytes"),
            _ => panic!("{kernel}: what is {word}?"),
        }
    }
    for spec in arguments.split_whitespace() {
        if spec == "cooperative" {
            options.cooperative = true;
        } else if let Some((name, value)) = spec.split_once(':').filter(|s| !s.0.contains('[')) {
            parameters = match name {
                "u32" => parameters.u32(value.parse().expect("u32")),
                "i32" => parameters.i32(value.parse().expect("i32")),
                "u64" => parameters.address(value.parse().expect("u64")),
                _ => panic!("{kernel}: what is {spec}?"),
            };
        } else {
            parameters = parameters.address(buffer(&mut device, spec));
        }
    }
    device.launch(&shape, &parameters, &options)
}

/// A buffer as `TYPE[N]`, `TYPE[N]=FILLING`.
fn buffer(device: &mut Device, spec: &str) -> u64 {
    let (declared, filling) = spec.split_once('=').unwrap_or((spec, ""));
    let (kind, length) = declared.trim_end_matches(']').split_once('[').expect("TYPE[N]");
    let length: usize = length.parse().expect("a length");
    let size = match kind {
        "u8" => 1,
        "u64" => 8,
        _ => 4,
    };
    let float = kind == "f32";
    let number = |i: u32| if float { (i as f32).to_le_bytes() } else { i.to_le_bytes() };
    match filling.split_once(':').unwrap_or((filling, "")) {
        ("", _) => device.empty(length * size),
        ("zeros", _) => device.buffer(&vec![0; length * size]),
        ("iota", _) => {
            device.buffer(&(0..length as u32).flat_map(|i| number(i)[..size].to_vec()).collect::<Vec<u8>>())
        }
        ("random", seed) => {
            let mut random = Random(seed.parse().expect("a seed"));
            let mut next = || if float { random.f32().to_le_bytes() } else { random.u32().to_le_bytes() };
            device.buffer(&(0..length).flat_map(|_| next()).collect::<Vec<u8>>())
        }
        ("freed", _) => {
            let address = device.empty(length * size);
            device.memory.free(address).expect("just allocated");
            address
        }
        (which @ ("address-of-freed" | "address-of-live"), _) => {
            let target = device.empty(128);
            if which == "address-of-freed" {
                device.memory.free(target).expect("just allocated");
            }
            device.buffer(&target.to_le_bytes())
        }
        _ => panic!("what is {spec}?"),
    }
}

/// The orders that a kernel is run in.
fn orders() -> Vec<Options> {
    let base = Options { instruction_limit: 100_000, ..Options::default() };
    [None, Some(1), Some(2), Some(3)].into_iter().map(|seed| Options { seed, ..base.clone() }).collect()
}

/// What is wrong with one finding of a planted bug; nothing if it is one of the expected.
fn misplaced(case: &Case, ptx: &str, f: &Finding) -> Option<String> {
    if case.may.contains(&(f.kind, f.space)) && case.lines.contains(&f.line) {
        return None;
    }
    let right_line = if case.lines.is_empty() { f.line == 0 } else { case.lines.contains(&f.line) };
    // Blanks aside: the finding's text is the instruction as read, not as laid out.
    let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != ';').collect::<String>();
    let written = ptx.lines().nth((f.ptx_line as usize).saturating_sub(1)).map_or_else(String::new, plain);
    let right_text = f.ptx_line == 0 || written.contains(&plain(&f.instruction));
    let wrong = [
        ("kind", f.kind == case.kind),
        ("space", f.space == case.space),
        ("kernel", f.kernel == case.kernel),
        ("line", right_line),
        ("file", f.line == 0 || f.file.ends_with(&format!("{}.cu", case.file))),
        ("block", case.block.is_none_or(|b| f.block == b)),
        ("warp", case.warp.is_none_or(|w| f.warp == w)),
        ("lane", case.lane.is_none_or(|l| f.lane == l)),
        ("instruction", f.line == 0 || !f.instruction.is_empty() && right_text),
        ("message", !f.message.is_empty()),
        ("count", f.count > 0),
    ];
    let names: Vec<&str> = wrong.iter().filter(|w| !w.1).map(|w| w.0).collect();
    (!names.is_empty()).then(|| format!("wrong {}: {f}", names.join(", ")))
}

/// All that is wrong with the bugs and twins of one source file.
fn check(file: &'static str) {
    let (bug_path, repaired_path) =
        (format!("planted/ptx/{file}.bug.ptx"), format!("planted/ptx/{file}.repaired.ptx"));
    let (bug, repaired, ptx) = (module(&bug_path), module(&repaired_path), text(&bug_path));
    let mut wrong = Vec::new();
    for case in cases(file) {
        for options in orders() {
            let name = format!("{file}::{} (seed {:?})", case.kernel, options.seed);
            let report = run(&bug, &case.kernel, &case.launch, &options);
            if !report.findings.iter().any(|f| (f.kind, f.space) == (case.kind, case.space)) {
                wrong.push(format!("{name}: no {} in {} found", case.kind, case.space));
            }
            for finding in &report.findings {
                wrong.extend(misplaced(&case, &ptx, finding).map(|w| format!("{name}: {w}")));
            }
            for parallel in [true, false] {
                let options = Options { parallel, ..options.clone() };
                let report = run(&repaired, &case.kernel, &case.repaired, &options);
                wrong.extend(report.findings.iter().map(|f| format!("{name}, repaired: {f}")));
                if report.stopped.is_some() {
                    wrong.push(format!("{name}, repaired: stopped by {:?}", report.stopped));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn async_copies() {
    check("async_copies");
}

#[test]
fn barriers() {
    check("barriers");
}

#[test]
fn deadlock() {
    check("deadlock");
}

#[test]
fn global_races() {
    check("global_races");
}

#[test]
fn launch() {
    check("launch");
}

#[test]
fn misaligned() {
    check("misaligned");
}

#[test]
fn out_of_bounds() {
    check("out_of_bounds");
}

#[test]
fn shared_races() {
    check("shared_races");
}

#[test]
fn uninitialised() {
    check("uninitialised");
}

#[test]
fn use_after_free() {
    check("use_after_free");
}

#[test]
fn warp() {
    check("warp");
}

/// The notes are read as they are meant: every kernel of every file has one, each kind and space occurs, and each bug but
/// those of launches marks its line.
#[test]
fn every_kernel_is_a_case_and_every_kind_occurs() {
    let all: Vec<Case> = FILES.into_iter().flat_map(cases).collect();
    for file in FILES {
        let here = all.iter().filter(|c| c.file == file);
        let names: Vec<&str> = here.map(|c| c.kernel.as_str()).collect();
        for variant in ["bug", "repaired"] {
            let module = module(&format!("planted/ptx/{file}.{variant}.ptx"));
            let kernels: Vec<&str> = module.kernels().iter().map(|k| k.name.as_str()).collect();
            assert_eq!(names, kernels, "{file}.{variant}");
        }
    }
    for case in &all {
        assert_eq!(case.lines.is_empty(), case.kind == FindingKind::LaunchLimit, "{}", case.kernel);
    }
    let count =
        |kind: FindingKind, space: Space| all.iter().filter(|c| (c.kind, c.space) == (kind, space)).count();
    use FindingKind::{Misaligned, OutOfBounds, UninitialisedRead};
    for space in [Space::Global, Space::Shared, Space::Local] {
        for kind in [OutOfBounds, Misaligned, UninitialisedRead] {
            assert!(count(kind, space) > 0, "no {kind} in {space}");
        }
    }
    assert!(count(UninitialisedRead, Space::Register) > 0);
    for kind in FindingKind::ALL {
        assert!(all.iter().any(|c| c.kind == kind), "no {kind}");
    }
    assert!(all.len() >= 140, "{} bugs", all.len());
}
