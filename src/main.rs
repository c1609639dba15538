//! The command `seedwalk`.

fn main() {}
