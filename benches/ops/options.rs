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

/// Checks that `parse` does what its documentation says; the bench has no test harness, so it is run with `--self-check`.
pub fn self_check() -> Result<(), String> {
    let parse = |line: &str| {
        let arguments: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&arguments, None)
    };
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("options: {what}")) };
    let o =
        parse("--bench conv2d --gpu-only --device emulated --json out.json --seconds=5 --sample-size 10")?;
    check(o.gpu_only && o.measures() && !o.are_criterions(), "flags")?;
    check(o.filter.as_deref() == Some("conv2d") && o.seconds == Some(5.0), "filter and seconds")?;
    check(
        o.json == Some("out.json".into()) && o.device == Request::parse("emulated").ok(),
        "json and device",
    )?;
    check(o.rest.join(" ") == "--bench conv2d --sample-size 10", "what criterion gets")?;
    check(o.wants("conv2d forward/64→64") && !o.wants("walk"), "wants")?;
    let o = parse("--bench --sample-size 10 .")?;
    check(o.are_criterions() && o.wants("walk") && o.filter.as_deref() == Some("."), "everything")?;
    check(!parse("--bench --test")?.measures(), "a test does not measure")?;
    for wrong in ["--seconds 0", "--seconds x", "--json", "--device tpu"] {
        check(parse(wrong).is_err(), wrong)?;
    }
    Ok(())
}
