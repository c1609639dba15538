use super::*;

/// What Pillow wrote: 9×6 pixels, chroma subsampled; sequential, progressive, inks.
const FILES: [&[u8]; 3] = [
    include_bytes!("../../../tests/formats/files/photo-rgb.jpg"),
    include_bytes!("../../../tests/formats/files/photo-progressive.jpg"),
    include_bytes!("../../../tests/formats/files/photo-cmyk.jpg"),
];
const LIMIT: usize = 1 << 16;

fn fault(bytes: &[u8]) -> Fault {
    decode(bytes, LIMIT).err().unwrap_or("none")
}

/// Where the first segment of a kind lies: from its marker to behind it.
fn segment(bytes: &[u8], marker: u8) -> std::ops::Range<usize> {
    let at = bytes.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
    at..at + 2 + usize::from(bytes[at + 2]) * 256 + usize::from(bytes[at + 3])
}

fn without(bytes: &[u8], marker: u8) -> Vec<u8> {
    let range = segment(bytes, marker);
    [&bytes[..range.start], &bytes[range.end..]].concat()
}

/// A file with bytes of its first segment of a kind replaced, from so many bytes behind the marker on.
fn changed(bytes: &[u8], marker: u8, behind: usize, by: &[u8]) -> Vec<u8> {
    let at = segment(bytes, marker).start + behind;
    let mut bytes = bytes.to_vec();
    bytes[at..at + by.len()].copy_from_slice(by);
    bytes
}

#[test]
fn every_cut_and_every_changed_byte_is_a_picture_or_a_fault() {
    for file in FILES {
        let whole = decode(file, LIMIT).unwrap();
        assert_eq!((whole.width, whole.height), (9, 6));
        assert_eq!(whole.samples.len(), 54 * whole.channels);
        for cut in 0..file.len() {
            assert!(decode(&file[..cut], LIMIT).is_err(), "{cut} of {} bytes", file.len());
        }
        let mut bytes = file.to_vec();
        for at in 0..file.len() {
            for change in [0x01, 0x80, 0xff] {
                bytes[at] ^= change;
                if let Ok(picture) = decode(&bytes, LIMIT) {
                    assert_eq!(picture.samples.len(), picture.width * picture.height * picture.channels);
                }
                bytes[at] = file[at];
            }
        }
    }
}

#[test]
fn what_contradicts_itself_is_told() {
    let [file, progressive, inks] = FILES;
    // Behind a frame's marker: length, bits, height, width, number of components, and three bytes for each.
    for (bytes, word) in [
        (without(file, 0xdb), "quantization table"),
        (without(file, 0xc0), "no frame"),
        (without(file, 0xc4), "Huffman table is missing"),
        ([&file[..segment(file, 0xda).start], b"\xff\xd9"].concat(), "no data"),
        (without(file, 0xda), "a marker is missing"),
        (changed(file, 0xc0, 4, &[12]), "8 bits"),
        (changed(file, 0xc0, 5, &[0, 0]), "no pixels"),
        (changed(file, 0xc0, 5, &[0xff; 4]), "too many"),
        (changed(file, 0xc0, 9, &[2]), "components"),
        (changed(file, 0xc0, 11, &[0x50]), "contradict"),
        (changed(file, 0xc0, 13, &[1]), "contradict"),
        (changed(file, 0xc0, 14, &[0x33]), "sampling"),
        (changed(file, 0xc0, 1, &[0xc9]), "not supported"),
        (changed(file, 0xc4, 5, &[200]), "cut off"),
        (b"\xff\xd8\xff\xc4\0\x16\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0abc".to_vec(), "more codes"),
        (changed(file, 0xc4, 4, &[0x20]), "no known kind"),
        (changed(file, 0xc4, 4, &[0x04]), "fifth"),
        (changed(file, 0xda, 5, &[9]), "does not have"),
        (changed(file, 0xda, 4, &[0]), "no components"),
        (changed(progressive, 0xda, 11, &[7]), "no band"),
        ([&file[..segment(file, 0xc0).end], &file[segment(file, 0xc0)], b"\xff\xd9"].concat(), "two frames"),
    ] {
        assert!(fault(&bytes).contains(word), "{word}: {}", fault(&bytes));
    }
    // Restart markers that do not come: inks are not subsampled, so that there are two units.
    let scan = segment(inks, 0xda).start;
    let restarts = [&inks[..scan], b"\xff\xdd\0\x04\0\x01", &inks[scan..]].concat();
    assert!(fault(&restarts).contains("restart"), "{}", fault(&restarts));
    // The same scan over and over.
    let scan = segment(progressive, 0xda);
    let end = scan.end + progressive[scan.end..].windows(2).position(|p| p[0] == 0xff && p[1] > 0).unwrap();
    let again = progressive[scan.start..end].repeat(200);
    let endless = [&progressive[..end], &again, &progressive[end..]].concat();
    assert!(fault(&endless).contains("more scans"), "{}", fault(&endless));
}

/// One coefficient and no more: a flat block has the level that the definition gives, an eighth of it above the middle.
#[test]
fn a_block_of_one_coefficient_is_flat() {
    for (value, level) in
        [(0, 128), (8, 129), (-8, 127), (3, 128), (4, 129), (-4, 128), (2000, 255), (-2000, 0)]
    {
        let mut block = [0i16; 64];
        block[0] = value;
        let mut plane = [7u8; 64];
        samples::inverse(&block, &[1; 64], &mut plane, 0, 8);
        assert_eq!(plane, [level; 64], "{value}");
    }
}
