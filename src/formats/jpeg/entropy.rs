//! The coded data of a scan: bits, Huffman codes, the coefficients of a block (ITU-T T.81, F.2 and G.1).

use super::Fault;

/// Place in a block, row by row, of the k-th coefficient of the zigzag (T.81, figure A.6).
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// 8×8 values, row by row.
pub(super) type Block = [i16; 64];

/// Where the `k`-th value of a table or block in zigzag order belongs.
pub(super) fn place(k: usize) -> usize {
    usize::from(ZIGZAG[k & 63])
}

/// Bits that [`Codes::short`] resolves at once.
const SHORT: u32 = 9;

/// A Huffman table (T.81, annex C).
#[derive(Clone)]
pub(super) struct Codes {
    symbols: Vec<u8>,
    /// For the next `SHORT` bits: length of the code in the upper byte, its symbol in the lower; 0 for longer ones.
    short: [u16; 1 << SHORT],
    /// For each length, one more than its last code, aligned to 16 bits, and what a code of that length lacks to be an
    /// index into `symbols`.
    longer: [(u32, i32); 17],
}

impl Codes {
    /// From the numbers of codes of 1 to 16 bits and their symbols.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, Fault> {
        let mut codes = Self { symbols: symbols.to_vec(), short: [0; 1 << SHORT], longer: [(0, 0); 17] };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            codes.longer[length as usize].1 = index as i32 - code as i32;
            if code + count > 1 << length {
                return Err("a Huffman table has more codes than there is room for");
            }
            for _ in 0..count {
                if length <= SHORT {
                    let first = (code << (SHORT - length)) as usize;
                    let entry = (length as u16) << 8 | u16::from(symbols[index]);
                    codes.short[first..first + (1 << (SHORT - length))].fill(entry);
                }
                (code, index) = (code + 1, index + 1);
            }
            codes.longer[length as usize].0 = code << (16 - length);
            code <<= 1;
        }
        Ok(codes)
    }
}

/// Reads bits up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to take.
    pub at: usize,
    /// The next bits, from the highest on.
    buffer: u64,
    /// How many of them there are.
    left: u32,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, left: 0 }
    }

    fn fill(&mut self) {
        while self.left <= 56 {
            let byte = match self.bytes.get(self.at..) {
                Some([0xff, 0, ..]) => {
                    self.at += 1;
                    0xff
                }
                Some([byte, ..]) if *byte != 0xff => *byte,
                _ => return,
            };
            self.at += 1;
            self.buffer |= u64::from(byte) << (56 - self.left);
            self.left += 8;
        }
    }

    fn skip(&mut self, count: u32) -> Result<(), Fault> {
        self.left = self.left.checked_sub(count).ok_or("its data end too early")?;
        self.buffer <<= count;
        Ok(())
    }

    /// The next `count` bits, at most 16.
    fn take(&mut self, count: u32) -> Result<u32, Fault> {
        if count == 0 {
            return Ok(0);
        }
        if self.left < count {
            self.fill();
        }
        let value = (self.buffer >> (64 - count)) as u32;
        self.skip(count)?;
        Ok(value)
    }

    fn bit(&mut self) -> Result<bool, Fault> {
        Ok(self.take(1)? == 1)
    }

    fn symbol(&mut self, codes: &Codes) -> Result<u8, Fault> {
        if self.left < 16 {
            self.fill();
        }
        let next = (self.buffer >> 48) as u32;
        let entry = codes.short[(next >> (16 - SHORT)) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8))?;
            return Ok(entry as u8);
        }
        for length in SHORT + 1..=16 {
            let (end, offset) = codes.longer[length as usize];
            if next < end {
                self.skip(length)?;
                let index = (next >> (16 - length)) as i32 + offset;
                return codes
                    .symbols
                    .get(index as usize)
                    .copied()
                    .ok_or("a code that its table does not have");
            }
        }
        Err("a code that its table does not have")
    }

    /// A value of `size` bits as T.81, F.2.2.1 extends its sign.
    fn value(&mut self, size: u8) -> Result<i32, Fault> {
        if size > 15 {
            return Err("a coefficient of more than 15 bits");
        }
        let value = self.take(size.into())? as i32;
        Ok(if size > 0 && value < 1 << (size - 1) { value - (1 << size) + 1 } else { value })
    }

    /// Goes to the restart marker `number`, which must be next.
    pub fn restart(&mut self, number: u8) -> Result<(), Fault> {
        (self.buffer, self.left) = (0, 0);
        while self.bytes.get(self.at..self.at + 2) == Some(&[0xff, 0xff]) {
            self.at += 1;
        }
        if self.bytes.get(self.at..self.at + 2) != Some(&[0xff, 0xd0 + number]) {
            return Err("a restart marker is missing");
        }
        self.at += 2;
        Ok(())
    }
}

/// What a scan codes of its blocks.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// First and last coefficient of the zigzag.
    pub band: [usize; 2],
    /// The lowest bit that was known before, 0 for none, and that is known after.
    pub bits: [u8; 2],
}

/// A whole block of a sequential scan, into a block of zeros.
pub(super) fn whole(
    bits: &mut Bits<'_>,
    dc: &Codes,
    ac: &Codes,
    last: &mut i32,
    block: &mut Block,
) -> Result<(), Fault> {
    let size = bits.symbol(dc)?;
    *last = last.wrapping_add(bits.value(size)?);
    block[0] = *last as i16;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(ac)?;
        let (run, size) = (usize::from(symbol >> 4), symbol & 15);
        if size == 0 {
            if run < 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        if k > 63 {
            return Err("a block of more than 64 coefficients");
        }
        block[place(k)] = bits.value(size)? as i16;
        k += 1;
    }
    Ok(())
}

/// The first coefficient of a block in a progressive scan.
pub(super) fn first(
    bits: &mut Bits<'_>,
    dc: Option<&Codes>,
    part: Part,
    last: &mut i32,
    block: &mut Block,
) -> Result<(), Fault> {
    let [before, low] = part.bits;
    if before > 0 {
        block[0] |= i16::from(bits.bit()?) << low;
        return Ok(());
    }
    let size = bits.symbol(dc.ok_or("a Huffman table is missing")?)?;
    *last = last.wrapping_add(bits.value(size)?);
    block[0] = (*last << low) as i16;
    Ok(())
}

/// The other coefficients of a block in a progressive scan. `rest` counts blocks still to come in which the band has
/// nothing new.
pub(super) fn others(
    bits: &mut Bits<'_>,
    ac: &Codes,
    part: Part,
    rest: &mut u32,
    block: &mut Block,
) -> Result<(), Fault> {
    let ([start, end], [before, low]) = (part.band, part.bits);
    let one = 1i16 << low;
    let mut k = start;
    if *rest == 0 {
        while k <= end {
            let symbol = bits.symbol(ac)?;
            let (run, size) = (u32::from(symbol >> 4), symbol & 15);
            if size == 0 && run < 15 {
                *rest = (1 << run) + bits.take(run)?;
                break;
            }
            if before == 0 {
                k += run as usize;
                if size > 0 {
                    if k > end {
                        return Err("a band of more coefficients than it has");
                    }
                    block[place(k)] = (bits.value(size)? << low) as i16;
                }
                k += 1;
                continue;
            }
            // A new coefficient of ±1 after `run` zeros; those that are known get a bit each on the way.
            if size > 1 {
                return Err("a new coefficient of more than a bit");
            }
            let new = if size == 0 {
                0
            } else if bits.bit()? {
                one
            } else {
                -one
            };
            k = refine(bits, k, end, Some(run), one, block)?;
            if new != 0 {
                if k > end {
                    return Err("a band of more coefficients than it has");
                }
                block[place(k)] = new;
            }
            k += 1;
        }
    }
    if *rest > 0 {
        if before > 0 {
            refine(bits, k, end, None, one, block)?;
        }
        *rest -= 1;
    }
    Ok(())
}

/// Gives each coefficient from `k` on that is not 0 its next bit, past `run` zeros or to the band's end; returns where
/// it stopped.
fn refine(
    bits: &mut Bits<'_>,
    mut k: usize,
    end: usize,
    run: Option<u32>,
    one: i16,
    block: &mut Block,
) -> Result<usize, Fault> {
    let mut zeros = run;
    while k <= end {
        let value = &mut block[place(k)];
        if *value == 0 {
            match &mut zeros {
                Some(0) => break,
                Some(left) => *left -= 1,
                None => {}
            }
        } else if bits.bit()? && *value & one == 0 {
            *value = value.wrapping_add(if *value > 0 { one } else { -one });
        }
        k += 1;
    }
    Ok(k)
}
