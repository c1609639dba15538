//! The command line: one file a command. A command parses its flags, calls the library, and returns what
//! is to be printed; nothing below this module prints.

mod check_data;
mod convert_weights;
mod crf;
mod demo;
mod doctor;
mod evaluate;
mod forward;
mod generate;
mod inputs;
mod inspect;
mod make_affinity_labels;
mod make_cams;
mod make_pseudo_labels;
mod profile;
mod run;
mod segment;
mod session;
mod stage_folder;
mod synth;
mod train_affinity;
mod train_cam;
mod train_segmentation;
mod training_flags;
mod walk;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use session::{Common, Outcome, Place, Session};

/// From image-level tags to pixel masks.
///
/// seedwalk trains a network that segments photographs from nothing but tags: class activation maps are
/// the seeds, a random walk over learned affinities grows them (Ahn and Kwak, CVPR 2018).
#[derive(Parser)]
#[command(
    name = "seedwalk",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:
  seedwalk demo
  seedwalk run configs/msrc14.toml

`seedwalk COMMAND --help` tells each command's flags and ends with examples."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Run(run::Run),
    Synth(synth::Synth),
    TrainCam(train_cam::TrainCam),
    MakeCams(make_cams::MakeCams),
    MakeAffinityLabels(make_affinity_labels::MakeAffinityLabels),
    TrainAffinity(train_affinity::TrainAffinity),
    MakePseudoLabels(make_pseudo_labels::MakePseudoLabels),
    TrainSegmentation(train_segmentation::TrainSegmentation),
    Segment(segment::Segment),
    Evaluate(evaluate::Evaluate),
    ConvertWeights(convert_weights::ConvertWeights),
    Inspect(inspect::Inspect),
    Forward(forward::Forward),
    Crf(crf::Crf),
    Walk(walk::Walk),
    Profile(profile::Profile),
    CheckData(check_data::CheckData),
    Doctor(doctor::Doctor),
    Generate(generate::Generate),
}

impl Command {
    /// Where the command can compute.
    fn place(&self) -> Place {
        match self {
            Self::Demo(_)
            | Self::Run(_)
            | Self::TrainCam(_)
            | Self::MakeCams(_)
            | Self::MakeAffinityLabels(_)
            | Self::TrainAffinity(_)
            | Self::MakePseudoLabels(_)
            | Self::TrainSegmentation(_)
            | Self::Segment(_)
            | Self::Forward(_)
            | Self::Crf(_)
            | Self::Walk(_) => Place::CpuOrGpu,
            Self::Profile(profile) => profile.place(),
            Self::Synth(_)
            | Self::Evaluate(_)
            | Self::ConvertWeights(_)
            | Self::Inspect(_)
            | Self::CheckData(_)
            | Self::Doctor(_)
            | Self::Generate(_) => Place::Cpu,
        }
    }

    fn run(self, session: &Session) -> crate::Result<Outcome> {
        match self {
            Self::Demo(command) => command.run(session),
            Self::Run(command) => command.run(session),
            Self::Synth(command) => command.run(session),
            Self::TrainCam(command) => command.run(session),
            Self::MakeCams(command) => command.run(session),
            Self::MakeAffinityLabels(command) => command.run(session),
            Self::TrainAffinity(command) => command.run(session),
            Self::MakePseudoLabels(command) => command.run(session),
            Self::TrainSegmentation(command) => command.run(session),
            Self::Segment(command) => command.run(session),
            Self::Evaluate(command) => command.run(session),
            Self::ConvertWeights(command) => command.run(session),
            Self::Inspect(command) => command.run(session),
            Self::Forward(command) => command.run(session),
            Self::Crf(command) => command.run(session),
            Self::Walk(command) => command.run(session),
            Self::Profile(command) => command.run(session),
            Self::CheckData(command) => command.run(session),
            Self::Doctor(command) => command.run(session),
            Self::Generate(command) => command.run(session),
        }
    }
}

/// Runs the command that the arguments name (the program's own name first) and prints what comes of it.
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        // Help and version come this way too. Nobody is left to tell of a closed pipe.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = error.print();
            if arguments.iter().any(|a| a == "--json") {
                let text = error.to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                session::print_json_error(&crate::Error::usage(text.trim_end()));
            }
            return ExitCode::from(2);
        }
    };
    let json = cli.common.json;
    let outcome = Session::new(cli.common, cli.command.place()).and_then(|session| cli.command.run(&session));
    ExitCode::from(session::finish(outcome, json))
}
