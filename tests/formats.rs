//! Files of other programs: those that the real packages wrote, those that an attacker would write, and what
//! the built program makes of them. What is read takes at most 64 MiB + 3 × the file's size, and a second.

mod common;

#[path = "formats/allocator.rs"]
mod allocator;
#[path = "formats/commands.rs"]
mod commands;
#[path = "formats/hostile/mod.rs"]
mod hostile;
#[path = "formats/mutations.rs"]
mod mutations;
#[path = "formats/read.rs"]
mod read;
#[path = "formats/real.rs"]
mod real;
#[path = "formats/texts.rs"]
mod texts;
#[path = "formats/writers.rs"]
mod writers;
