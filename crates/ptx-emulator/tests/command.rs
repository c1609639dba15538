//! The command as a stranger uses it: what it prints, writes and exits with.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const TUTORIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tutorial.ptx");

fn emulator(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(arguments).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A file of this process in the folder for temporary files, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("ptx-emulator-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("temporary files can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    fn read(&self) -> Vec<u8> {
        std::fs::read(&self.0).expect("the file is there")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is gone already when a test removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Arguments of the sum with a race.
const RACE: [&str; 12] = [
    "run",
    TUTORIAL,
    "--kernel",
    "sum_with_a_race",
    "--block",
    "256",
    "--arg",
    "f32[256]=iota",
    "--arg",
    "f32[1]",
    "--arg",
    "u32:256",
];

#[test]
fn kernels_are_listed_with_their_resources() {
    let done = emulator(&["check", TUTORIAL]);
    let out = text(&done.stdout);
    assert_eq!(done.status.code(), Some(0));
    for part in [
        "transpose_tiled (sm_80, PTX 7.0)",
        "shared memory: 4096 bytes",
        "registers declared:",
        "sum_with_a_race",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    let done = emulator(&["check", TUTORIAL, "--json"]);
    let object: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(object["kernels"][1]["name"], "transpose_tiled");
    assert_eq!(object["kernels"][1]["shared_bytes"], 4096);
}

#[test]
fn a_run_without_findings_writes_its_buffer_in_any_order() {
    let file = Scratch::new("dump.f32", b"");
    let dump = format!("1:{}", file.path());
    for seed in [None, Some("5"), Some("6")] {
        let mut arguments = vec![
            "run",
            TUTORIAL,
            "--kernel",
            "transpose_padded",
            "--grid",
            "2,3",
            "--block",
            "32,8",
            "--arg",
            "f32[3500]=iota",
            "--arg",
            "f32[3500]",
            "--arg",
            "u32:50",
            "--arg",
            "u32:70",
            "--dump",
            &dump,
        ];
        arguments.extend(seed.iter().flat_map(|s| ["--seed", *s]));
        let done = emulator(&arguments);
        assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
        assert!(text(&done.stdout).starts_with("0 findings\n"));
        let want: Vec<u8> = (0..3500).flat_map(|i| ((i % 70 * 50 + i / 70) as f32).to_le_bytes()).collect();
        assert!(file.read() == want, "seed {seed:?}");
    }
}

#[test]
fn a_finding_is_a_json_object_with_its_place() {
    let done = emulator(&[&RACE[..], &["--json"]].concat());
    assert_eq!(done.status.code(), Some(3));
    let object: Value = serde_json::from_slice(&done.stdout).expect("one JSON object");
    assert_eq!(object["schema_version"], 1);
    let findings = object["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 1);
    let found = &findings[0];
    assert_eq!(found["kind"], "shared-race");
    assert_eq!(found["space"], "shared");
    assert_eq!(found["block"], serde_json::json!([0, 0, 0]));
    assert_eq!(found["file"], "tutorial.cu");
    assert_eq!(found["line"], 51);
    assert_eq!(found["kernel"], "sum_with_a_race");
    for number in ["warp", "lane"] {
        assert!(found[number].is_u64(), "{number}");
    }
    for words in ["instruction", "message"] {
        assert!(found[words].as_str().is_some_and(|s| !s.is_empty()), "{words}");
    }
    assert!(object["counters"]["instructions"].is_object());
    // Without checks the same launch finds nothing.
    let done = emulator(&[&RACE[..], &["--json", "--checks", "none"]].concat());
    assert_eq!(done.status.code(), Some(0));
    let object: Value = serde_json::from_slice(&done.stdout).expect("one JSON object");
    assert_eq!(object["findings"], serde_json::json!([]));
}

#[test]
fn the_listing_is_one_page_of_its_own() {
    let file = Scratch::new("listing.html", b"");
    let done = emulator(&[&RACE[..], &["--html", file.path()]].concat());
    assert_eq!(done.status.code(), Some(3));
    let page = text(&file.read());
    for part in ["<!doctype html>", "shared-race", "sums[t] += ", "NVIDIA H200"] {
        assert!(page.to_lowercase().contains(&part.to_lowercase()), "{part} is not in the page");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<link"));
}

/// Values of each type, by name of the PTX type, arrive as they are: the kernel copies its parameter to a buffer.
#[test]
fn values_of_all_types_arrive() {
    let file = Scratch::new("value", b"");
    let dump = format!("0:{}", file.path());
    let cases: [(&str, &str, &[u8]); 15] = [
        ("u8", "u8:255", &[255]),
        ("u8", "i8:-1", &[255]),
        ("u16", "u16:0xabcd", &[0xcd, 0xab]),
        ("u16", "i16:-2", &[0xfe, 0xff]),
        ("u16", "f16:1.5", &[0, 0x3e]),
        ("u16", "bf16:-1", &[0x80, 0xbf]),
        ("u32", "u32:7", &[7, 0, 0, 0]),
        ("u32", "i32:-1", &[255; 4]),
        ("u32", "f32:0.5", &[0, 0, 0, 0x3f]),
        ("u32", "f32:-inf", &[0, 0, 0x80, 0xff]),
        ("u64", "u64:9", &[9, 0, 0, 0, 0, 0, 0, 0]),
        ("u64", "i64:-9", &[0xf7, 255, 255, 255, 255, 255, 255, 255]),
        ("u64", "f64:2", &[0, 0, 0, 0, 0, 0, 0, 0x40]),
        ("u64", "u64:18446744073709551615", &[255; 8]),
        ("u32", "i32:-2147483648", &[0, 0, 0, 0x80]),
    ];
    for (ty, spec, want) in cases {
        let register = if ty == "u64" {
            "%d"
        } else if ty == "u32" {
            "%r"
        } else {
            "%s"
        };
        let ptx = format!(
            ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .{ty} value)\n{{\n\
             .reg .b64 %a; .reg .b16 %s; .reg .b32 %r; .reg .b64 %d;\n\
             ld.param.u64 %a, [out]; ld.param.{ty} {register}, [value]; cvta.to.global.u64 %a, %a;\n\
             st.global.{ty} [%a], {register}; ret;\n}}\n"
        );
        let source = Scratch::new("value.ptx", ptx.as_bytes());
        let done = emulator(&["run", source.path(), "--arg", "u8[8]=zeros", "--arg", spec, "--dump", &dump]);
        assert_eq!(done.status.code(), Some(0), "{spec}: {}{}", text(&done.stdout), text(&done.stderr));
        assert_eq!(file.read()[..want.len()], *want, "{spec}");
    }
}

#[test]
fn buffers_come_from_files() {
    let numbers: Vec<u8> = (0..256).flat_map(|i| (i as f32 / 2.0).to_le_bytes()).collect();
    let (from, to) = (Scratch::new("from.f32", &numbers), Scratch::new("to.f32", b""));
    let (spec, dump) = (format!("f32[]=@{}", from.path()), format!("0:{}", to.path()));
    let mut arguments = RACE.to_vec();
    arguments[7] = &spec;
    arguments.extend(["--dump", &dump, "--checks", "none"]);
    assert_eq!(emulator(&arguments).status.code(), Some(0));
    assert!(to.read() == numbers);
}

/// What cannot be done is said in a sentence, names its cause, and exits with 1.
#[test]
fn errors_say_what_is_wrong() {
    let tutorial = std::fs::read_to_string(TUTORIAL).expect("the tutorial");
    let unknown = Scratch::new(
        "unknown.ptx",
        tutorial.replacen("bar.sync", "wgmma.fence.sync.aligned;\n\tbar.sync", 1).as_bytes(),
    );
    let misspelt = Scratch::new("misspelt.ptx", tutorial.replacen("ld.shared", "ld.shred", 1).as_bytes());
    let cut = Scratch::new("cut.ptx", tutorial.split("bar.sync").next().expect("split gives one").as_bytes());
    let empty = Scratch::new("empty.ptx", b"");
    let noise = Scratch::new("noise.ptx", &[0x7f, b'E', 0xff, 0xfe]);
    let with = |at: usize, what: &'static str| {
        let mut arguments = RACE.to_vec();
        arguments[at] = what;
        arguments
    };
    let and = |more: &[&'static str]| [&RACE[..], more].concat();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["check", "no-such.ptx"], "no-such.ptx|No such file"),
        (vec!["check", unknown.path()], "not supported|wgmma.fence.sync.aligned|.ptx:"),
        (vec!["check", misspelt.path()], "`.shred`|ld.shred"),
        (vec!["check", cut.path()], ".ptx:"),
        (vec!["check", empty.path()], "no PTX"),
        (vec!["check", noise.path()], "no text"),
        (vec!["run", TUTORIAL], "--kernel is needed|transpose_naive, "),
        (with(3, "sum"), "no kernel `sum`|sum_with_a_race"),
        (with(5, "x"), "--block|`x` is no number"),
        (with(5, "1,1,1,1"), "one to three numbers"),
        (with(7, "f33[2]"), "no type `f33`"),
        (with(7, "f32"), "TYPE:VALUE or TYPE[COUNT]"),
        (with(7, "f32[2"), "`]` is missing"),
        (with(7, "f32[]"), "number of elements"),
        (with(7, "f32[two]"), "`two` is no number"),
        (with(7, "f32[2]=ones"), "=zeros|=iota"),
        (with(7, "f32[2]=random:x"), "`x` is no seed"),
        (with(7, "f32[]=@no-such-file"), "no-such-file|No such file"),
        (with(7, "f32[99999999999999]"), "out of device memory"),
        (with(11, "u32:-1"), "-1 does not fit"),
        (with(11, "u32:many"), "`many` is no whole number"),
        (with(11, "u64:1"), "takes 4 bytes, this has 8"),
        (RACE[..10].to_vec(), "takes 3 parameters, 2 --arg"),
        (and(&["--dump", "1"]), "INDEX:FILE"),
        (and(&["--dump", "2:x"]), "argument 2 is no buffer"),
        (and(&["--gpu", "v100"]), "no GPU `v100`|rtx4090"),
        (and(&["--checks", "some"]), "all, none"),
        (vec!["frobnicate"], "frobnicate"),
        (vec![], "Usage"),
    ];
    for (arguments, parts) in cases {
        let done = emulator(&arguments);
        let words = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {words}{}", text(&done.stdout));
        for part in parts.split('|') {
            assert!(words.contains(part), "{arguments:?}: {part} is not in\n{words}");
        }
    }
}

/// Limits are findings: the launch could be described, the GPU does not take it.
#[test]
fn limits_of_the_gpu_are_findings() {
    for (option, value, parts) in [
        ("--block", "2048", ["2048 threads", "1024 are allowed"]),
        ("--shared", "1000000", ["1001024 bytes", "A100"]),
    ] {
        let mut arguments = RACE.to_vec();
        if option == "--block" {
            arguments[5] = value;
        } else {
            arguments.extend([option, value]);
        }
        let done = emulator(&arguments);
        let out = text(&done.stdout);
        assert_eq!(done.status.code(), Some(3), "{out}");
        assert!(out.starts_with("launch-limit") && !out.contains(" at :0"), "{out}");
        assert!(parts.iter().all(|part| out.contains(part)), "{out}");
    }
}
