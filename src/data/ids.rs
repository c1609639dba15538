//! Ids: what names a sample in lists, tags and outputs.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// File name endings of photographs, in the order in which they are looked for.
pub(super) const IMAGE_ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "JPG", "JPEG", "PNG"];

/// Whether a path ends like a photograph.
pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str());
    ending.is_some_and(|e| IMAGE_ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

/// The id without the ending of a photograph.
pub(super) fn without_ending(id: &str) -> &str {
    match id.rsplit_once('.') {
        Some((stem, _)) if is_image(Path::new(id)) => stem,
        _ => id,
    }
}

/// Why a string cannot be an id: outputs are named after ids, so an id must stay below their folder and
/// mean the same on every system.
pub(super) fn why_unsafe(id: &str) -> Option<&'static str> {
    if id.is_empty() {
        return Some("is empty");
    }
    if id.contains('\\') {
        return Some("contains a backslash; write `/` between folders");
    }
    if id.chars().any(char::is_control) {
        return Some("contains NUL or another control character");
    }
    if id.len() > 1024 {
        return Some("is longer than 1024 bytes");
    }
    // `components` passes over `.` and `//`; two spellings of one file must not be two ids.
    let parts = Path::new(id).components();
    let mut plain = 0;
    for part in parts {
        match part {
            Component::Normal(name) => plain += name.len() + 1,
            Component::ParentDir => return Some("contains `..`"),
            Component::RootDir | Component::Prefix(_) => return Some("is not relative"),
            Component::CurDir => return Some("contains `.` as a folder"),
        }
    }
    (plain != id.len() + 1).then_some("contains `.` or an empty name as a folder")
}

/// The id of a file found in a folder, from its path below it with the ending of a photograph or without.
/// What cannot stand in an id (bytes that are not UTF-8, control characters, backslashes) is written as
/// `%` and two hexadecimal digits.
pub(crate) fn id_of_file(relative: &Path) -> String {
    let mut id = String::new();
    for chunk in relative.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| id += &format!("%{byte:02X}"));
            } else {
                id.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| id += &format!("%{byte:02X}"));
    }
    id
}

/// Ids seen so far with their lines, to find repetitions.
#[derive(Default)]
pub(super) struct SeenIds {
    /// Lower-cased id → the id as written and its line.
    seen: HashMap<String, (String, usize)>,
}

impl SeenIds {
    /// Takes up an id, or says what it collides with.
    pub fn insert(&mut self, id: &str, line: usize) -> Result<(), String> {
        use std::collections::hash_map::Entry;
        match self.seen.entry(id.to_lowercase()) {
            Entry::Vacant(entry) => {
                entry.insert((id.to_string(), line));
                Ok(())
            }
            Entry::Occupied(entry) => {
                let (other, line) = entry.get();
                let place = if *line > 0 { format!(" on line {line}") } else { String::new() };
                Err(if other == id {
                    format!("id `{id}` was already given{place}")
                } else {
                    format!("id `{id}` differs only in case from `{other}`{place}")
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_file_name_becomes_a_safe_id() {
        let id = |bytes: &[u8]| id_of_file(Path::new(std::ffi::OsStr::from_bytes(bytes)));
        assert_eq!(id("ä b/c.jpg".as_bytes()), "ä b/c.jpg");
        assert_eq!(id(b"a\xff\\\n.jpg"), "a%FF%5C%0A.jpg");
        for name in [b"a\xff".as_slice(), b"\xfe/\\", "\u{85}".as_bytes()] {
            assert_eq!(why_unsafe(&id(name)), None);
        }
    }
}
