//! Each fault that can befall a run, as a person meets it: the program ends with the right exit code, names
//! file, cause and remedy, and leaves earlier results whole.

mod common;

#[path = "faults/checkpoints.rs"]
mod checkpoints;
#[path = "faults/command_line.rs"]
mod command_line;
#[path = "faults/data.rs"]
mod data;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/processes.rs"]
mod processes;
#[path = "faults/training.rs"]
mod training;
