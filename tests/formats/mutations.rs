//! Fuzzing in small: files of the real packages, changed and cut at random, are values or errors within the
//! limits. `fuzz/` does the same for as long as one likes.

use std::time::{Duration, Instant};

use crate::allocator::measured;
use crate::hostile::{Reader, beyond_limits, unclear};
use crate::read::folder;
use crate::writers::{Entry, zip};

/// A stream of numbers (Steele, Lea, Flood 2014: SplitMix64); the same ones each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Numbers that lie at the edges of something.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// One to four changes: a bit, a byte, a number at the edge, a piece taken out, doubled, or put elsewhere.
fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        let length = (1 + random.below(16)).min(bytes.len() - at);
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let number = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let piece = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => {
                let piece = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len() - length + 1);
                bytes[to..to + length].copy_from_slice(&piece);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// The entries of a sound archive.
fn unzip(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let u16 = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32 = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let end = bytes.len() - 22;
    let mut at = u32(end + 16);
    (0..u16(end + 10))
        .map(|_| {
            let (size, name, local) = (u32(at + 24), u16(at + 28), u32(at + 42));
            let start = local + 30 + u16(local + 26) + u16(local + 28);
            let entry = String::from_utf8(bytes[at + 46..at + 46 + name].to_vec()).unwrap();
            at += 46 + name + u16(at + 30) + u16(at + 32);
            (entry, bytes[start..start + size].to_vec())
        })
        .collect()
}

/// A file changed; of an archive half the time an entry, so that the checksums hold.
fn changed(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    if !whole.starts_with(b"PK") || random.below(2) == 0 {
        change(random, &mut bytes);
        return bytes;
    }
    let mut entries = unzip(whole);
    let at = random.below(entries.len());
    change(random, &mut entries[at].1);
    zip(&entries.iter().map(|(name, data)| Entry::new(name, data)).collect::<Vec<_>>())
}

/// Samples and who reads them.
fn samples() -> Vec<(String, Vec<u8>, Vec<Reader>)> {
    let mut samples = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let readers = match name.as_str() {
            "expected.json" => continue,
            _ if name.starts_with("cams") => vec![Reader::Maps, Reader::Tags, Reader::Inspect],
            _ if name.starts_with("photo") => vec![Reader::Photograph, Reader::Inspect],
            _ if name.starts_with("mask") => vec![Reader::Mask, Reader::Inspect],
            _ if name.starts_with("cls_labels") => vec![Reader::Tags, Reader::Maps, Reader::Inspect],
            _ => vec![Reader::Weights, Reader::Inspect],
        };
        samples.push((name, std::fs::read(entry.path()).unwrap(), readers));
    }
    samples.sort();
    samples
}

#[test]
fn changed_files_are_values_or_errors_within_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let samples = samples();
    let mut random = Random(20_261_125);
    let started = Instant::now();
    let (mut accepted, mut refused) = (0, 0);
    // At most so long on a slow machine, and never fewer than a round of all samples.
    while accepted + refused < 40_000 && started.elapsed() < Duration::from_secs(8) {
        for (name, whole, readers) in &samples {
            let bytes = changed(&mut random, whole);
            let path = dir.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            for reader in readers {
                let (result, taken) = measured(|| reader.read(&path));
                assert_eq!(beyond_limits(&taken, bytes.len()), None, "{name}: {bytes:?}");
                match result {
                    Ok(()) => accepted += 1,
                    Err(error) => {
                        assert_eq!(unclear(&path, &error), None, "{name}: {bytes:?}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(accepted > 50 && refused > 200, "{accepted} accepted, {refused} refused");
}
