//! The part of ZIP that weight files use: entries stored without compression.
//!
//! The central directory at the end of the file is the truth; each local header must agree with it
//! (PKWARE APPNOTE 6.3.9, §4.3). Entries may not overlap, no name may occur twice or lead out of the archive,
//! and every CRC-32 is checked.

use std::collections::HashSet;
use std::path::Path;

use super::elements::{Budget, Cursor, shown};
use crate::{Error, Result};

/// An entry of an archive.
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    pub data: &'a [u8],
}

/// Whether bytes begin as an archive does.
pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

const DIRECTORY_END: u32 = 0x0605_4b50;
const DIRECTORY_END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const END_LENGTH: usize = 22;

/// The entries of an archive in the order of its directory.
///
/// # Errors
/// An archive that is cut off or contradicts itself, compression, encryption, several volumes, a wrong
/// checksum.
pub(crate) fn entries<'a>(path: &'a Path, bytes: &'a [u8], budget: &mut Budget) -> Result<Vec<Entry<'a>>> {
    /// An entry, where it lies, and its name in this module's set and in PyTorch's map of storages.
    const ENTRY: usize = 2 * size_of::<Entry<'_>>() + 2 * size_of::<(usize, usize)>() + 96;
    let (directory, count, end) = directory(path, bytes)?;
    let mut cursor = Cursor::new(path, &bytes[..end]);
    cursor.at = directory;
    let mut found = Vec::new();
    let mut ranges = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        budget.charge(path, "the archive's directory", ENTRY)?;
        let listed = Listed::read(&mut cursor)?;
        let start = listed.data_start(path, &bytes[..directory])?;
        if !names.insert(listed.name) {
            return Err(Error::malformed(
                path,
                format!("{} occurs twice in the archive", shown(listed.name)),
            )
            .remedy("which of the two is meant cannot be told: save the file anew"));
        }
        ranges.push((listed.offset, start + listed.size));
        found.push((Entry { name: listed.name, data: &bytes[start..start + listed.size] }, listed.crc));
    }
    if cursor.at != end {
        return Err(cursor.fail("the archive's directory is longer than its entries"));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(Error::malformed(path, "entries of the archive overlap")
            .remedy("the file is damaged or made to exhaust memory"));
    }
    // Only now: of entries that overlap, the same bytes would be summed over and over. A fuzzer cannot guess
    // checksums: for it they are not looked at.
    for (entry, crc) in &found {
        if !cfg!(fuzzing) && crc32(entry.data) != *crc {
            let message = format!("{}: the checksum is wrong", shown(entry.name));
            return Err(Error::malformed(path, message).remedy("the file is damaged: fetch it again"));
        }
    }
    Ok(found.into_iter().map(|(entry, _)| entry).collect())
}

/// Why a name in an archive is refused. Nothing is ever unpacked, but no sound archive has such names.
fn why_unsafe(name: &str) -> Option<&'static str> {
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Some("a name that leads out of the archive");
    }
    let strange = |c: char| c == '\\' || c.is_control();
    (name.is_empty() || name.contains(strange))
        .then_some("a name that is empty or has a backslash, NUL or another control character in it")
}

/// Offset of the central directory, its number of entries, and where it ends.
fn directory(path: &Path, bytes: &[u8]) -> Result<(usize, usize, usize)> {
    let cut = || {
        Error::malformed(path, "the end of the archive is missing: it is cut off")
            .remedy("fetch the file again")
    };
    // The end record is followed by a comment of at most 65535 bytes.
    let last = bytes.len().checked_sub(END_LENGTH).ok_or_else(cut)?;
    let is_end = |at: &usize| {
        let record = &bytes[*at..];
        record.starts_with(&DIRECTORY_END.to_le_bytes())
            && usize::from(u16::from_le_bytes([record[20], record[21]])) == record.len() - END_LENGTH
    };
    let at = (last.saturating_sub(0xffff)..=last).rev().find(is_end).ok_or_else(cut)?;
    let mut cursor = Cursor::new(path, bytes);
    cursor.at = at + 4;
    let (disk, first_disk, here, total) = (cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?);
    let (size, offset) = (cursor.u32()?, cursor.u32()?);
    let mut end = at;
    let (mut count, mut size, mut offset) = (usize::from(total), size as usize, offset as usize);
    let locator = at.checked_sub(20).filter(|&l| bytes[l..].starts_with(&LOCATOR_64.to_le_bytes()));
    if let Some(locator) = locator {
        cursor.at = locator + 8;
        end = cursor.size()?;
        cursor.at = end;
        if end > locator || cursor.u32()? != DIRECTORY_END_64 {
            return Err(cursor.fail("the archive's 64-bit end record is not where it should be"));
        }
        // Record size, versions, disks, entries here.
        cursor.take(8 + 4 + 8 + 8)?;
        (count, size, offset) = (cursor.size()?, cursor.size()?, cursor.size()?);
    } else if disk != 0 || first_disk != 0 || here != total {
        return Err(Error::malformed(path, "an archive of several volumes is not supported"));
    }
    if offset.checked_add(size) != Some(end) {
        return Err(Error::malformed(path, "the archive's directory is not where it should be"));
    }
    Ok((offset, count, end))
}

/// An entry as the central directory lists it.
struct Listed<'a> {
    name: &'a str,
    crc: u32,
    size: usize,
    offset: usize,
}

impl<'a> Listed<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self> {
        if cursor.u32()? != DIRECTORY_ENTRY {
            return Err(cursor.fail("an entry of the archive's directory is damaged"));
        }
        cursor.take(4)?;
        let (flags, method) = (cursor.u16()?, cursor.u16()?);
        cursor.take(4)?;
        let crc = cursor.u32()?;
        let (packed, size) = (cursor.u32()?, cursor.u32()?);
        let (name, extra, comment) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
        cursor.take(8)?;
        let offset = cursor.u32()?;
        let name = std::str::from_utf8(cursor.take(name.into())?)
            .map_err(|_| cursor.fail("a name in the archive is not UTF-8"))?;
        if let Some(why) = why_unsafe(name) {
            return Err(cursor
                .fail(format!("{}: {why}", shown(name)))
                .remedy("this is not what torch.save or numpy.savez writes: do not trust the file"));
        }
        let extra = cursor.take(extra.into())?;
        cursor.take(comment.into())?;
        let mut wide = wide_sizes(extra).chunks_exact(8);
        let mut widen = |value: u32| -> Result<usize> {
            if value != u32::MAX {
                return Ok(value as usize);
            }
            let wide = wide.next().map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
            wide.and_then(|v| usize::try_from(v).ok()).ok_or_else(|| cursor.fail("a 64-bit size is missing"))
        };
        let (size, packed) = (widen(size)?, widen(packed)?);
        let offset = widen(offset)?;
        let refuse =
            |why: &str, remedy: &str| Err(cursor.fail(format!("{} is {why}", shown(name))).remedy(remedy));
        if flags & 1 != 0 {
            return refuse("encrypted", "decrypt the archive first");
        }
        if method != 0 || packed != size {
            return refuse(
                "compressed",
                "save it uncompressed (numpy.savez, torch.save), or unpack and store it",
            );
        }
        Ok(Self { name, crc, size, offset })
    }

    /// Where the data begins. `before` are the bytes up to the directory. The local header must say the same
    /// as the directory; one whose flag 3 is set leaves checksum and sizes to a descriptor after the data, and
    /// one whose sizes are all ones to an extra field.
    fn data_start(&self, path: &Path, before: &[u8]) -> Result<usize> {
        let mut cursor = Cursor::new(path, before);
        cursor.at = self.offset.min(before.len());
        if cursor.u32()? != LOCAL_HEADER {
            return Err(cursor.fail(format!("{} is not where it should be", shown(self.name))));
        }
        cursor.take(2)?;
        let (flags, method) = (cursor.u16()?, cursor.u16()?);
        cursor.take(4)?;
        let (crc, packed, size) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (name, extra) = (cursor.u16()?, cursor.u16()?);
        let deferred = flags & 8 != 0;
        let agrees = |size: u32| size == u32::MAX || size as usize == self.size || deferred && size == 0;
        let same_crc = crc == self.crc || deferred && crc == 0 || cfg!(fuzzing);
        let agrees = same_crc && agrees(packed) && agrees(size);
        if flags & 1 != 0 || method != 0 || !agrees || cursor.take(name.into())? != self.name.as_bytes() {
            return Err(cursor.fail(format!("{}: its two headers differ", shown(self.name))));
        }
        cursor.take(extra.into())?;
        let start = cursor.at;
        cursor.take(self.size)?;
        Ok(start)
    }
}

/// The 64-bit sizes among the extra fields of an entry.
fn wide_sizes(mut extra: &[u8]) -> &[u8] {
    while let [a, b, c, d, rest @ ..] = extra {
        let length = usize::from(u16::from_le_bytes([*c, *d])).min(rest.len());
        if u16::from_le_bytes([*a, *b]) == 1 {
            return &rest[..length];
        }
        extra = &rest[length..];
    }
    &[]
}

/// CRC-32 (ISO-HDLC, polynomial 0xEDB88320 reflected), eight bytes a step (Kounavis and Berry 2005).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    static TABLES: [[u32; 256]; 8] = tables();
    let mut crc = !0u32;
    let (blocks, rest) = bytes.as_chunks::<8>();
    for block in blocks {
        let low = crc ^ u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        let byte = |value: u32, shift: u32| (value >> shift & 0xff) as usize;
        crc = TABLES[7][byte(low, 0)]
            ^ TABLES[6][byte(low, 8)]
            ^ TABLES[5][byte(low, 16)]
            ^ TABLES[4][byte(low, 24)]
            ^ TABLES[3][usize::from(block[4])]
            ^ TABLES[2][usize::from(block[5])]
            ^ TABLES[1][usize::from(block[6])]
            ^ TABLES[0][usize::from(block[7])];
    }
    for &byte in rest {
        crc = TABLES[0][usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    }
    !crc
}

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        tables[0][i] = value;
        i += 1;
    }
    let mut t = 1;
    while t < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[t - 1][i];
            tables[t][i] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            i += 1;
        }
        t += 1;
    }
    tables
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An archive of stored entries.
    pub(in crate::formats) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut directory = Vec::new();
        for (name, data) in entries {
            let offset = bytes.len() as u32;
            let mut common = vec![0u8; 10];
            common.extend(crc32(data).to_le_bytes());
            common.extend((data.len() as u32).to_le_bytes());
            common.extend((data.len() as u32).to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            bytes.extend(LOCAL_HEADER.to_le_bytes());
            bytes.extend(&common);
            // PyTorch pads with an extra field so that data is aligned.
            let padding = (64 - (bytes.len() + 2 + name.len() + 4) % 64) % 64;
            bytes.extend((padding as u16 + 4).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(b"FB");
            bytes.extend((padding as u16).to_le_bytes());
            bytes.extend(std::iter::repeat_n(b'Z', padding));
            bytes.extend(*data);
            directory.extend(DIRECTORY_ENTRY.to_le_bytes());
            directory.extend([0, 0]);
            directory.extend(&common);
            directory.extend([0; 12]);
            directory.extend(offset.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let start = bytes.len() as u32;
        bytes.extend(&directory);
        bytes.extend(DIRECTORY_END.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((entries.len() as u16).to_le_bytes());
        bytes.extend((entries.len() as u16).to_le_bytes());
        bytes.extend((directory.len() as u32).to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend([0, 0]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
        let found = entries(Path::new("a.zip"), bytes, &mut Budget::new(bytes.len()))?;
        Ok(found.into_iter().map(|e| (e.name.to_string(), e.data.to_vec())).collect())
    }

    fn sample() -> Vec<u8> {
        archive(&[("a/data.pkl", b"hello"), ("a/data/0", &[7; 300]), ("empty", b"")])
    }

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
        let long: Vec<u8> = (0..100).collect();
        let plain = long.iter().fold(!0u32, |crc, &b| {
            (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
        });
        assert_eq!(crc32(&long), !plain);
    }

    #[test]
    fn entries_are_found() {
        let found = read(&sample()).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], ("a/data.pkl".to_string(), b"hello".to_vec()));
        assert_eq!(found[1].1, [7; 300]);
        let mut commented = sample();
        let length = commented.len();
        commented[length - 2] = 4;
        commented.extend(b"PK\x05\x06");
        assert_eq!(read(&commented).unwrap().len(), 3);
    }

    #[test]
    fn unsound_archives_are_refused() {
        let message = |bytes: &[u8]| read(bytes).unwrap_err().message().to_string();
        assert!(message(&archive(&[("a", b"1"), ("a", b"2")])).contains("twice"));
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err());
        }
        let data = bytes.windows(5).position(|w| w == b"hello").unwrap();
        let mut wrong = bytes.clone();
        wrong[data] = b'j';
        assert!(message(&wrong).contains("checksum"));
        let entry = bytes.windows(4).position(|w| w == DIRECTORY_ENTRY.to_le_bytes()).unwrap();
        let changed = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            message(&bytes)
        };
        assert!(changed(entry + 8, 1).contains("encrypted"));
        assert!(changed(entry + 10, 8).contains("compressed"));
        assert!(changed(entry + 46, b'b').contains("headers differ"));
        // The second entry pointed to the first one.
        let second = entry + 46 + "a/data.pkl".len();
        let mut overlapping = bytes.clone();
        overlapping.copy_within(entry..entry + 46, second);
        overlapping[second + 28] = "a/data/0".len() as u8;
        assert!(read(&overlapping).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn damaged_archives_are_values_or_errors(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = sample();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = read(&bytes);
        }
    }
}
