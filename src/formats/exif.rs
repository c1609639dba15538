//! The two facts that are wanted of a photograph's markers: its frame and its orientation.

/// What a JPEG's markers say of themselves, without decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct JpegHeader {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Samples a pixel.
    pub components: u8,
    /// Adobe's colour transform, if its marker is there: 0 none, 1 YCbCr, 2 YCCK.
    pub adobe_transform: Option<u8>,
    /// EXIF orientation, 1–8.
    pub orientation: Option<u8>,
    /// Whether the end-of-image marker follows the last scan.
    pub complete: bool,
}

/// Walks the markers up to the end of the image or of the bytes (ITU-T T.81, B.1). `None` when there is no
/// frame. An end-of-image marker inside a segment (a thumbnail's) does not count.
pub(super) fn jpeg_header(bytes: &[u8]) -> Option<JpegHeader> {
    let mut header = JpegHeader::default();
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            // A fill byte before the marker.
            0xff => {
                at += 1;
                continue;
            }
            0x01 | 0xd0..=0xd8 => {
                at += 2;
                continue;
            }
            0xd9 => {
                header.complete = true;
                break;
            }
            _ => {}
        }
        let Some(length) = be16(bytes, at + 2) else { break };
        let length = usize::from(length).max(2);
        let Some(body) = bytes.get(at + 4..at + 2 + length) else { break };
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                header.height = usize::from(be16(body, 1)?);
                header.width = usize::from(be16(body, 3)?);
                header.components = *body.get(5)?;
            }
            0xe1 if header.orientation.is_none() => {
                header.orientation = body.strip_prefix(b"Exif\0\0").and_then(orientation);
            }
            0xee => header.adobe_transform = body.strip_prefix(b"Adobe").and_then(|b| b.get(6).copied()),
            _ => {}
        }
        at += 2 + length;
        if marker == 0xda {
            at += scan_length(&bytes[at..]);
        }
    }
    (header.components > 0).then_some(header)
}

/// Bytes of entropy-coded data up to the next marker that is neither a stuffed zero nor a restart.
fn scan_length(bytes: &[u8]) -> usize {
    bytes
        .windows(2)
        .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7))
        .unwrap_or(bytes.len())
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The orientation (tag 0x0112, 1–8) in the first directory of a TIFF block (EXIF 2.3, §4.6.4).
pub(super) fn orientation(tiff: &[u8]) -> Option<u8> {
    let little = match tiff.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let bytes = |at: usize, n: usize| tiff.get(at..at.checked_add(n)?);
    let short = |at: usize| {
        let b: [u8; 2] = bytes(at, 2)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    };
    let long = |at: usize| {
        let b: [u8; 4] = bytes(at, 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    for entry in 0..entries {
        let at = directory.checked_add(2 + 12 * entry)?;
        const SHORT: u16 = 3;
        if short(at)? == 0x0112 && short(at + 2)? == SHORT {
            return short(at + 8).and_then(|v| u8::try_from(v).ok()).filter(|v| (1..=8).contains(v));
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A TIFF block with an orientation after another entry.
    pub(in crate::formats) fn tiff(little: bool, value: u16) -> Vec<u8> {
        let u16 = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let u32 = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut b = if little { b"II\x2a\0".to_vec() } else { b"MM\0\x2a".to_vec() };
        b.extend(u32(8));
        b.extend(u16(2));
        for (tag, value) in [(0x0100u16, 7u16), (0x0112, value)] {
            b.extend(u16(tag));
            b.extend(u16(3));
            b.extend(u32(1));
            b.extend(u16(value));
            b.extend([0, 0]);
        }
        b
    }

    #[test]
    fn orientation_in_both_byte_orders() {
        for little in [true, false] {
            for value in 1..=8u8 {
                assert_eq!(orientation(&tiff(little, value.into())), Some(value));
            }
            assert_eq!(orientation(&tiff(little, 0)), None);
            assert_eq!(orientation(&tiff(little, 9)), None);
            let whole = tiff(little, 6);
            for cut in 0..whole.len() - 2 {
                assert_eq!(orientation(&whole[..cut]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, value: u16, at in 0usize..34, byte: u8) {
            let _ = orientation(&bytes);
            let _ = jpeg_header(&bytes);
            let mut tiff = tiff(true, value);
            tiff[at] = byte;
            let _ = orientation(&tiff);
        }
    }
}
