//! The command: runs or checks PTX files.

fn main() {
    println!("not yet");
}
