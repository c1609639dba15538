use std::path::Path;

use super::{Config, OptimizerKind, Preset, Refine, Width};
use crate::ops::affinity::{BorderRule, LossForm, Reduction};
use crate::{Error, Position};

fn read(text: &str) -> crate::Result<Config> {
    Config::from_toml(text, Path::new("c.toml"))
}

fn refused(text: &str) -> Error {
    read(text).unwrap_err()
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    for config in
        [Config::preset(Preset::Paper), Config::preset(Preset::Psa), Config::demo(7, Path::new("d"))]
    {
        let text = config.to_toml().unwrap();
        assert_eq!(read(&text).unwrap(), config);
        // Nothing is left to a default: the other preset below it changes nothing but the preset.
        let other = if config.preset == Preset::Psa { Preset::Paper } else { Preset::Psa };
        let name = |p: Preset| format!("preset = \"{}\"", if p == Preset::Psa { "psa" } else { "paper" });
        let swapped = text.replacen(&name(config.preset), &name(other), 1);
        assert_eq!(read(&swapped).unwrap(), Config { preset: other, ..config });
        assert!(text.contains("poly_power = 0.9 ") && text.lines().all(|l| l.len() < 160), "{text}");
    }
}

#[test]
fn a_file_lies_over_its_presets_defaults() {
    let config = read("preset = \"psa\"\nseed = 3\n[walk]\nbeta = 4\n[backbone]\nwidth = 1\n").unwrap();
    let mut expected = Config::preset(Preset::Psa);
    (expected.seed, expected.walk.beta) = (3, 4.0);
    assert_eq!(config, expected);
    let config = read("\u{feff}[backbone]\r\nwidth = \"1/8\"\r\n[cam]\r\nscales = [1, 0.5]\r\n").unwrap();
    assert_eq!((config.backbone.width.numerator(), config.backbone.width.denominator()), (1, 8));
    assert_eq!(config.cam.scales, [1.0, 0.5]);
    assert_eq!(read("crf.pseudo_labels = \"auto\"\n").unwrap().crf.pseudo_labels, Refine::On);
    let learns = |text: &str| read(text).unwrap().backbone.learn_statistics;
    assert!(learns("") && !learns("backbone.init = \"w.pth\"\n"));
    assert!(learns("[backbone]\ninit = \"w.pth\"\nlearn_statistics = true\n"));
    let inner = read("[crf.options]\nbilateral = { sigma_xy = 60 }\n").unwrap().crf.options;
    assert_eq!((inner.bilateral.sigma_xy, inner.bilateral.sigma_rgb), (60.0, 13.0));
}

#[test]
fn an_unknown_key_names_its_line_and_neighbour() {
    for (text, line, near) in [
        ("preset = \"psa\"\n\n[walk]\nbetta = 4\n", 4, "walk.beta"),
        ("beta = 4\n", 1, "walk.beta"),
        ("\n[wlak]\nbeta = 4\n", 2, "walk"),
        ("[cam.training]\nlearnin_rate = 1e-3\n", 2, "cam.training.learning_rate"),
        ("[crf.options]\ngaussian = { sigma_xyz = 3 }\n", 2, "crf.options.gaussian.sigma_xy"),
    ] {
        let error = refused(text);
        assert!(error.message().starts_with("unknown key"), "{error}");
        assert_eq!(error.position(), Some(Position::Line(line)), "{text}");
        assert_eq!(error.how_to_mend(), Some(format!("the nearest known key is `{near}`").as_str()));
        assert!(error.to_string().starts_with(&format!("c.toml:{line}: ")), "{error}");
    }
    assert!(refused("zzzzzzzzzzz = 1\n").how_to_mend().unwrap().contains("--print-config"));
}

#[test]
fn a_value_of_another_type_or_out_of_range_names_its_line() {
    for (text, line, words) in [
        ("[walk]\nbeta = \"x\"\n", 2, "float is expected"),
        ("[walk]\n\nbeta = -1.0\n", 3, "`walk.beta` is out of range"),
        ("[walk]\nbeta = nan\n", 2, "`walk.beta` is out of range"),
        ("[walk]\nsteps = -5\n", 2, "`walk.steps`"),
        ("preset = \"pas\"\n", 1, "no preset"),
        ("[backbone]\nwidth = \"0/8\"\n", 2, "no width"),
        ("[affinity]\nfeature_widths = [1, 2]\n", 2, "affinity.feature_widths"),
        ("[affinity]\nreduction = \"max\"\n", 2, "affinity.reduction"),
        ("[affinity_labels]\nalpha_weak = 2\n", 2, "alpha_strong to 1024"),
        ("[cam]\nlong_side = [9, 8]\n", 2, "cam.long_side"),
        ("[segmentation]\nscale_range = [1.5, 0.5]\n", 2, "segmentation.scale_range"),
        ("[segmentation]\nscale_range = [1]\n", 2, "segmentation.scale_range"),
        ("[cam]\nscales = []\n", 2, "at least one scale"),
        ("[cam.training]\nbatch = 0\n", 2, "cam.training.batch"),
        (
            "[crf]\noptions = { iterations = 5, gaussian = { sigma_xy = 0, weight = 1 } }\n",
            2,
            "gaussian.sigma_xy",
        ),
        ("walk = 3\n", 1, "table is expected"),
        ("seed = 1\nseed = 2\n", 2, "not TOML"),
        ("seed = \n", 1, "not TOML"),
    ] {
        let error = refused(text);
        assert!(error.message().contains(words), "{text}: {error}");
        assert_eq!(error.position(), Some(Position::Line(line)), "{text}: {error}");
    }
}

#[test]
fn widths() {
    let parse = |text: &str| text.parse::<Width>();
    assert_eq!(parse("1").unwrap(), Width::FULL);
    assert_eq!(parse(" 3 / 16 ").unwrap().to_string(), "3/16");
    for bad in ["", "0", "1/0", "5", "1/65", "-1/8", "1/8/2", "0.125"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

/// Every number that spec §2 to §10 gives for the authors' code.
#[test]
fn psa_is_what_the_authors_code_has() {
    let c = Config::preset(Preset::Psa);
    assert_eq!((c.cam.head, c.cam.long_side, c.cam.flip), (Preset::Psa, [256, 512], true));
    assert_eq!(c.cam.scales, [1.0, 0.5, 1.5, 2.0]);
    for (training, batch, epochs) in [(&c.cam.training, 16, 15), (&c.affinity.training, 8, 8)] {
        assert_eq!((training.batch, training.epochs, training.crop), (batch, epochs, 448));
        assert_eq!(training.optimizer, OptimizerKind::Sgd);
        // The weight decay stands in the momentum's place too.
        assert_eq!((training.learning_rate, training.momentum, training.weight_decay), (0.1, 5e-4, 5e-4));
        assert_eq!((training.poly_power, training.head_learning_rate_factor), (0.9, 10.0));
        assert_eq!((training.warmup_steps, training.hue), (0, 0.1));
    }
    assert_eq!((c.affinity_labels.alpha_strong, c.affinity_labels.alpha_weak), (4.0, 32.0));
    assert_eq!(
        (c.affinity.feature_widths, c.affinity.radius, c.affinity.inclusive),
        ([64, 128, 256], 5, false)
    );
    let forms = (c.affinity.reduction, c.affinity.border, c.affinity.loss);
    assert_eq!(forms, (Reduction::Mean, BorderRule::Psa, LossForm::Psa));
    assert_eq!((c.walk.beta, c.walk.steps, c.walk.background_alpha), (8.0, 256, 16.0));
    assert_eq!((c.walk.scales.as_slice(), c.walk.flip), (&[1.0][..], false));
    assert_eq!(c.crf.pseudo_labels, Refine::Off);
    for crf in [c.crf.options, c.affinity_labels.crf] {
        assert_eq!((crf.iterations, crf.gaussian.sigma_xy, crf.gaussian.weight), (10, 3.0, 3.0));
        let bilateral = (crf.bilateral.sigma_xy, crf.bilateral.sigma_rgb, crf.bilateral.weight);
        assert_eq!(bilateral, (80.0, 13.0, 10.0));
    }
    let training = &c.segmentation.training;
    assert_eq!((training.learning_rate, training.momentum, training.weight_decay), (1e-3, 0.9, 5e-4));
    // Of 10,582 images: 20 thousand steps.
    assert_eq!((training.batch, 10_582 / training.batch * training.epochs / 1000), (10, 20));
    assert_eq!((c.segmentation.dilation, c.segmentation.scale_range), (12, [0.5, 1.5]));
}
