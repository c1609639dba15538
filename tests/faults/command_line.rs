//! The command line itself: flags, configuration, help, what is printed where.

use crate::common::{Place, TRAIN};

const COMMANDS: [&str; 20] = [
    "demo",
    "run",
    "synth",
    "train-cam",
    "make-cams",
    "make-affinity-labels",
    "train-affinity",
    "make-pseudo-labels",
    "train-segmentation",
    "segment",
    "evaluate",
    "convert-weights",
    "inspect",
    "forward",
    "crf",
    "walk",
    "profile",
    "check-data",
    "doctor",
    "generate",
];

#[test]
fn flags_out_of_range_are_wrong_usage() {
    let place = Place::empty();
    for (line, word) in [
        ("no-such-command", "no-such-command"),
        ("", "COMMAND"),
        ("run", "CONFIG.toml"),
        ("demo --images 3", "--images"),
        ("synth --output x --images 1", "--images"),
        ("synth --output x --images 8 --size 63", "--size"),
        ("synth --output x --images 8 --threads 0", "--threads"),
        ("synth --output x --images 8 --seed -1", "-1"),
        ("synth --output x --images 8 --seed 9223372036854775808", "--seed"),
        ("synth --output x --images 8 --device tpu", "tpu"),
        ("synth --output x --images 8 --precision f64", "--precision"),
        ("synth --output x --images 8 -q -v", "--verbose"),
        ("train-cam --output x", "--data"),
        ("train-cam --data d --output x --epochs 0", "--epochs"),
        ("train-cam --data d --output x --batch 0", "--batch"),
        ("train-cam --data d --output x --crop 7", "--crop"),
        ("train-cam --data d --output x --width 0/8", "--width"),
        ("train-cam --data d --output x --width 9/2", "--width"),
        ("train-cam --data d --output x --preset voc", "--preset"),
        ("train-cam --data d --output x --learning-rate 1e30", "learning_rate"),
        ("train-cam --data d --output x --learning-rate nan", "learning_rate"),
        ("train-cam --data d --output x --learning-rate 0", "learning_rate"),
        ("make-cams --weights w --output x --image i", "--labels"),
        ("make-cams --weights w --output x --data d --format png", "--format"),
        ("segment --weights w --output x", "IMAGE_OR_FOLDER"),
        ("evaluate --data d", "--predictions"),
        ("evaluate --data d --cams c --threshold nan", "--threshold"),
        ("evaluate --data d --cams c --threshold 0.3 --sweep", "--sweep"),
        ("convert-weights a b.pth", "b.pth"),
        ("walk --affinities a --maps m --output x --beta nan", "walk.beta"),
        ("walk --affinities a --maps m --output x --beta 0", "walk.beta"),
        ("walk --affinities a --maps m --output x --radius 1", "--radius"),
        ("crf --image i --probabilities p --output x --gaussian 0,3", "sigma_xy"),
        ("crf --image i --probabilities p --output x --bilateral 3", "3 numbers"),
        ("crf --image i --probabilities p --output x --repeat 0", "--repeat"),
        ("generate csh", "csh"),
    ] {
        place.fails(line, 2, &[word]);
    }
    // Not wrong, and not to be had here.
    place.fails("synth --output x --images 8 --device cuda", 1, &["cuda", "--device cpu"]);
    place.fails("synth --output x --images 8 --precision bf16", 1, &["f32 only", "--precision"]);
    assert!(std::fs::read_dir(place.at("")).unwrap().next().is_none(), "something was written");
}

#[test]
fn a_configuration_is_told_its_unknown_keys_with_line_and_nearest() {
    let place = Place::new();
    let refused = |text: &str, words: &[&str]| {
        place.write("c.toml", text);
        place.fails("run c.toml", 1, words);
        place.fails(&format!("train-cam {TRAIN} --config c.toml --output x"), 1, words);
    };
    refused("[walk]\nsteps = 3\nbetta = 1\n", &["c.toml:3", "unknown key `walk.betta`", "`walk.beta`"]);
    refused("\n[waalk]\nbeta = 1\n", &["c.toml:2", "unknown key `waalk`", "`walk`"]);
    refused("[cam.training]\nepochs = 0\n", &["c.toml:2", "cam.training.epochs", "1 to 1000000"]);
    refused("[cam.training]\nlearning_rate = 1e30\n", &["c.toml:2", "learning_rate", "above 0, to 100"]);
    refused("[walk]\nbeta = \"much\"\n", &["c.toml:2", "walk.beta", "float is expected"]);
    refused("[walk\n", &["c.toml:1", "not TOML"]);
    refused("preset = \"voc\"\n", &["c.toml:1", "`voc` is no preset"]);
    place.write("c.toml", b"seed = 1\n\xff\n");
    place.fails("run c.toml", 1, &["c.toml", "UTF-8"]);
    place.fails("run nowhere.toml", 1, &["nowhere.toml"]);
    assert!(!place.at("x").exists());
}

#[test]
fn help_of_each_command_ends_with_two_examples() {
    let place = Place::empty();
    for command in COMMANDS {
        let help = place.succeeds(&format!("{command} --help"));
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{command}: {help}"));
        let examples: Vec<&str> = examples.trim_end().lines().collect();
        assert_eq!(examples.len(), 2, "{command}: {examples:?}");
        for example in examples {
            assert!(example.starts_with(&format!("  seedwalk {command}")), "{command}: {example}");
        }
        assert!(help.contains("--json") && help.contains("--overwrite"), "{command}");
    }
    let help = place.succeeds("--help");
    assert!(COMMANDS.iter().all(|command| help.contains(command)));
    assert!(place.succeeds("--version").starts_with("seedwalk "));
}

#[test]
fn json_is_one_object_on_standard_output_and_all_else_on_standard_error() {
    let place = Place::new();
    let data = "--data data --split train";
    let network = "--image data/JPEGImages/000001.jpg";
    let config = crate::common::configuration(&place.at(""), &place.at("data"), "run");
    let config = config.display();
    for (line, key) in [
        ("synth --output other --images 4".to_string(), "images"),
        (format!("run {config}"), "stages"),
        (format!("run {config} --dry-run"), "stages"),
        (format!("run {config} --print-config"), "walk"),
        (format!("train-cam {TRAIN} --output cam"), "steps"),
        (format!("make-cams {data} --weights cam --output cams"), "written"),
        (format!("make-cams {network} --labels ring,0 --weights cam --output one"), "classes"),
        (format!("make-affinity-labels {data} --cams cams --output labels"), "written"),
        (format!("train-affinity {TRAIN} --labels labels --output affinity"), "steps"),
        (format!("make-pseudo-labels {data} --cams cams --weights affinity --output pseudo"), "written"),
        (format!("train-segmentation {TRAIN} --labels pseudo --output net"), "steps"),
        ("segment --weights net --output masks --overlay data/JPEGImages".to_string(), "written"),
        (format!("evaluate {data} --predictions masks --cams cams --sweep"), "confusion_matrix"),
        ("convert-weights cam w.safetensors".to_string(), "tensors"),
        ("inspect cam".to_string(), "tensors"),
        (
            format!(
                "forward --network affinity --weights affinity {network} --output f.safetensors --repeat 2"
            ),
            "seconds",
        ),
        ("check-data --data data".to_string(), "classes"),
        ("doctor".to_string(), "findings"),
        ("generate man".to_string(), "text"),
    ] {
        for line in [format!("{line} --json"), format!("{line} --json --overwrite -v")] {
            let out = place.run(&line);
            assert_eq!(out.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&out.stderr));
            let value: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            assert!(value.get(key).is_some(), "{line}: no `{key}` in {value}");
            assert!(!out.stdout.contains(&0x1b) && !out.stderr.contains(&0x1b), "{line}: colours in a pipe");
        }
        let quiet = place.run(&format!("{line} -q --overwrite"));
        assert!(quiet.status.success() && quiet.stderr.is_empty(), "{line}: not quiet");
    }
    // Failures too, and wrong usage.
    for (line, code) in [("inspect nowhere", 1), ("run", 2), ("inspect", 2), ("check-data --data nowhere", 1)]
    {
        let out = place.run(&format!("{line} --json"));
        assert_eq!(out.status.code(), Some(code));
        let value: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(value["error"]["exit_code"], code, "{line}");
        assert!(!value["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn single_steps_read_and_write_what_they_say() {
    use seedwalk::formats::safetensors::{Dtype, read_tensors, write_tensors};
    use seedwalk::tensor::Tensor;
    let place = Place::new();
    place.succeeds(&format!("train-affinity {TRAIN} --labels data/SegmentationClass --output affinity"));
    let image = "--image data/JPEGImages/000001.jpg";
    place.succeeds(&format!("forward --network affinity --weights affinity {image} --output a.safetensors"));
    let write = |name: &str, tensor: &str, shape: &[usize]| {
        write_tensors(&place.at(name), &[(tensor, &Tensor::full(shape, 0.5))], Dtype::F32, &[]).unwrap();
    };
    write("maps.safetensors", "maps", &[3, 8, 8]);
    write("p.safetensors", "probabilities", &[3, 64, 64]);
    let walked = place
        .json("walk --affinities a.safetensors --maps maps.safetensors --output w.safetensors --repeat 3");
    assert_eq!(
        (walked["seconds"].as_array().unwrap().len(), &walked["shape"]),
        (3, &serde_json::json!([3, 8, 8]))
    );
    assert_eq!(read_tensors(&place.at("w.safetensors")).unwrap().tensors[0].name, "maps");
    let crf = format!("crf {image} --probabilities p.safetensors --output q.safetensors");
    assert_eq!(place.json(&crf)["shape"], serde_json::json!([3, 64, 64]));
    // Wrong tensors: the file and what is in it.
    write("small.safetensors", "maps", &[3, 7, 8]);
    place.fails(
        "walk --affinities a.safetensors --maps small.safetensors --output x.safetensors",
        1,
        &["small.safetensors"],
    );
    let words = &["maps.safetensors", "no tensor `affinities`", "`maps`"];
    place.fails(
        "walk --affinities maps.safetensors --maps maps.safetensors --output x.safetensors",
        1,
        words,
    );
    write("p.safetensors", "probabilities", &[3, 60, 64]);
    place.fails(&crf.replace("q.s", "x.s"), 1, &["p.safetensors", "64×64"]);
    assert!(!place.at("x.safetensors").exists());
}

#[test]
fn a_printed_configuration_is_one_that_can_be_run() {
    let place = Place::new();
    for preset in ["paper", "psa"] {
        let text = place.succeeds(&format!("run --print-config --preset {preset}"));
        place.write("c.toml", &text);
        assert_eq!(place.succeeds("run c.toml --print-config"), text);
    }
    // A dry run says what would be done and does nothing.
    let plans = place.succeeds("run c.toml --dry-run");
    assert_eq!(plans.lines().filter(|line| line.contains("run: not done yet")).count(), 7, "{plans}");
    assert_eq!(plans.lines().count(), 7, "{plans}");
    assert!(!place.at("runs").exists());
}

#[test]
fn completions_and_the_man_page_name_every_command() {
    let place = Place::empty();
    for what in ["bash", "zsh", "fish", "powershell", "man"] {
        let text = place.succeeds(&format!("generate {what}")).replace('\\', "").to_lowercase();
        for command in COMMANDS {
            assert!(text.contains(command), "{what}: {command}");
        }
    }
    let findings = place.json("doctor")["findings"].clone();
    let names: Vec<&str> = findings.as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in ["processor", "threads", "memory", "folder", "gpu", "emulated"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
