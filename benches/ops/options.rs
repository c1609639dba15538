//! This program's own arguments, taken out of the command line before criterion reads it.

use std::path::PathBuf;

use seedwalk::device::Request;

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// Only the kernels, not the CPU's operations.
    pub gpu_only: bool,
    /// The device whose kernels run; `None`: a GPU if there is one, else the emulated one.
    pub device: Option<Request>,
    /// Where the results go.
    pub json: Option<PathBuf>,
    /// Results of an earlier run to hold these against.
    pub compare: Option<PathBuf>,
    /// Seconds that the kernels' part may take.
    pub seconds: Option<f64>,
    /// Which rows: those whose name holds this text.
    pub filter: Option<String>,
    /// All arguments but these, as criterion takes them.
    pub rest: Vec<String>,
}

/// Criterion's flags that take no value.
const SWITCHES: [&str; 7] = ["--bench", "--test", "--list", "--quiet", "--verbose", "--noplot", "--exact"];

impl Options {
    /// Reads the arguments, the program's name not among them; `device` is what the environment says.
    ///
    /// # Errors
    /// In words: a value that is missing, or wrong.
    pub fn parse(arguments: &[String], device: Option<&str>) -> Result<Self, String> {
        let mut options = Self::default();
        let read = |name: &str| Request::parse(name).map_err(|e| e.to_string());
        options.device = device.map(read).transpose()?;
        let mut arguments = arguments.iter();
        let mut follows_flag = false;
        while let Some(argument) = arguments.next() {
            let (name, given) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_string())),
                _ => (argument.as_str(), None),
            };
            let mut value = || {
                given
                    .clone()
                    .or_else(|| arguments.next().cloned())
                    .ok_or_else(|| format!("{name} takes a value"))
            };
            match name {
                "--gpu-only" => options.gpu_only = true,
                "--device" => options.device = Some(read(&value()?)?),
                "--json" => options.json = Some(value()?.into()),
                "--compare" => options.compare = Some(value()?.into()),
                "--seconds" => {
                    let text = value()?;
                    let seconds = text.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
                    options.seconds =
                        Some(seconds.ok_or_else(|| format!("--seconds {text}: a positive number expected"))?);
                }
                _ => {
                    if !argument.starts_with('-') && !follows_flag {
                        options.filter = Some(argument.clone());
                    }
                    follows_flag = argument.starts_with("--") && given.is_none() && !SWITCHES.contains(&name);
                    options.rest.push(argument.clone());
                    continue;
                }
            }
            follows_flag = false;
        }
        Ok(options)
    }

    /// Whether criterion would take the arguments as they were given.
    pub fn are_criterions(&self) -> bool {
        !self.gpu_only
            && self.device.is_none()
            && self.json.is_none()
            && self.compare.is_none()
            && self.seconds.is_none()
    }

    /// Whether times are to be taken: cargo says `--bench` then.
    pub fn measures(&self) -> bool {
        let has = |flag: &str| self.rest.iter().any(|a| a == flag);
        has("--bench") && !has("--test") && !has("--list")
    }

    /// Whether a row's name is among those asked for.
    pub fn wants(&self, name: &str) -> bool {
        match self.filter.as_deref() {
            None | Some(".") => true,
            Some(text) => name.to_lowercase().contains(&text.to_lowercase()),
        }
    }
}

// The bench has no test harness: `tests/profile.rs` takes this module in.
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the bench itself is built without a harness")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let arguments: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&arguments, None)
    }

    #[test]
    fn own_arguments_are_taken_out_and_the_rest_is_criterions() {
        let line = "--bench conv2d --gpu-only --device emulated --json out.json --seconds=5 --sample-size 10";
        let o = parse(line).unwrap();
        assert!(o.gpu_only && o.measures() && !o.are_criterions());
        assert_eq!((o.filter.as_deref(), o.seconds), (Some("conv2d"), Some(5.0)));
        assert_eq!((o.json.clone(), o.device), (Some("out.json".into()), Request::parse("emulated").ok()));
        assert_eq!(o.rest.join(" "), "--bench conv2d --sample-size 10");
        assert!(o.wants("conv2d forward/64→64") && o.wants("CONV2D") && !o.wants("walk"));
        let o = parse("--bench --sample-size 10 .").unwrap();
        assert!(o.are_criterions() && o.wants("walk") && o.filter.as_deref() == Some("."));
        assert!(!parse("--bench --test").unwrap().measures() && !parse("--list --bench").unwrap().measures());
        assert!(!parse("").unwrap().measures() && parse("").unwrap().wants("anything"));
    }

    #[test]
    fn wrong_values_are_told() {
        for (line, word) in [
            ("--seconds 0", "positive"),
            ("--seconds x", "positive"),
            ("--seconds", "takes a value"),
            ("--json", "takes a value"),
            ("--device tpu", "tpu"),
        ] {
            let why = parse(line).unwrap_err();
            assert!(why.contains(word), "{line}: {why}");
        }
        assert!(Options::parse(&[], Some("gpu")).is_err());
    }
}
