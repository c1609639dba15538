//! JPEG (ITU-T T.81): sequential and progressive Huffman coding, 8 bits a sample.
//!
//! Why not a decoder from a crate: photographs must come out as they do for everybody else, to the last level. The
//! field reads them by the Independent JPEG Group's library or its descendants (Pillow, OpenCV, torchvision); the standard leaves
//! the transform's rounding and the interpolation of chroma open, and decoders that choose otherwise differ from it by up
//! to four levels, by a fifth of a level on average where chroma is subsampled, which maps over several scales show
//! in their third digit.
//!
//! A file that ends early, or contradicts itself, is an error; so is what photographs do not have: arithmetic coding,
//! 12 bits, lossless and hierarchical modes.

mod entropy;
mod samples;
#[cfg(test)]
mod tests;

use entropy::{Bits, Block, Codes, Part};
use samples::Plane;

/// What is wrong with a file.
pub(crate) type Fault = &'static str;

/// Scans beyond which a file is refused: encoders write about ten, and each goes over the whole picture again.
const MOST_SCANS: usize = 100;

/// A decoded picture.
pub(crate) struct Picture {
    pub width: usize,
    pub height: usize,
    /// 1 (grey), 3 (RGB) or 4 (the stored components, commonly inverted CMYK).
    pub channels: usize,
    /// Row by row, channels interleaved.
    pub samples: Vec<u8>,
}

/// One component of the frame.
struct Component {
    id: u8,
    /// Blocks of it in a minimal coded unit, across and down.
    factors: [usize; 2],
    quantizer: usize,
    /// Samples that belong to the picture.
    size: [usize; 2],
    /// Blocks across and down, whole units.
    blocks: [usize; 2],
    /// Kept between the scans of a progressive file, block by block.
    coefficients: Vec<Block>,
    plane: Vec<u8>,
    /// The quantizer at its first scan.
    steps: Option<[u16; 64]>,
}

struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// Largest factors.
    largest: [usize; 2],
}

#[derive(Default)]
struct Decoder {
    quantizers: [Option<[u16; 64]>; 4],
    codes: [[Option<Box<Codes>>; 4]; 2],
    restart: usize,
    frame: Option<Frame>,
    scans: usize,
    jfif: bool,
    adobe: Option<u8>,
}

/// Decodes a file. `limit` is the largest number of pixels.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn decode(bytes: &[u8], limit: usize) -> Result<Picture, Fault> {
    let mut decoder = Decoder::default();
    let mut at = 2;
    loop {
        while bytes.get(at..at + 2) == Some(&[0xff, 0xff]) {
            at += 1;
        }
        let Some(&[0xff, marker]) = bytes.get(at..at + 2) else {
            return Err("a marker is missing");
        };
        at += 2;
        match marker {
            0xd9 => return decoder.finish(),
            0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = bytes.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
        let body = length.and_then(|length| bytes.get(at + 2..at + length));
        let body = body.ok_or("a segment is longer than the file")?;
        at += 2 + body.len();
        match marker {
            0xc4 => decoder.huffman(body)?,
            0xdb => decoder.quantization(body)?,
            0xdd => decoder.restart = usize::from(word(body, 0)?),
            0xc0..=0xc2 => decoder.start(body, marker == 0xc2, limit)?,
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf => return Err("its coding is not supported"),
            0xda => at = decoder.scan(body, bytes, at)?,
            0xe0 => decoder.jfif |= body.starts_with(b"JFIF\0"),
            0xee if body.starts_with(b"Adobe") => decoder.adobe = body.get(11).copied(),
            _ => {}
        }
    }
}

fn byte(body: &[u8], at: usize) -> Result<u8, Fault> {
    body.get(at).copied().ok_or("a segment is too short")
}

fn word(body: &[u8], at: usize) -> Result<u16, Fault> {
    Ok(u16::from(byte(body, at)?) << 8 | u16::from(byte(body, at + 1)?))
}

impl Decoder {
    fn quantization(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let Some((&head, rest)) = body.split_first() {
            let wide = usize::from(head >> 4 != 0);
            let table =
                self.quantizers.get_mut(usize::from(head & 15)).ok_or("a fifth quantization table")?;
            let mut steps = [0u16; 64];
            for k in 0..64 {
                let step = if wide == 1 { word(rest, 2 * k)? } else { u16::from(byte(rest, k)?) };
                steps[entropy::place(k)] = step;
            }
            *table = Some(steps);
            body = &rest[64 << wide..];
        }
        Ok(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let Some((&head, rest)) = body.split_first() {
            let counts = rest.first_chunk::<16>().ok_or("a Huffman table is cut off")?;
            let total = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
            let symbols = rest[16..].get(..total).ok_or("a Huffman table is cut off")?;
            let class =
                self.codes.get_mut(usize::from(head >> 4)).ok_or("a Huffman table of no known kind")?;
            let slot = class.get_mut(usize::from(head & 15)).ok_or("a fifth Huffman table")?;
            *slot = Some(Box::new(Codes::new(counts, symbols)?));
            body = &rest[16 + total..];
        }
        Ok(())
    }

    fn start(&mut self, body: &[u8], progressive: bool, limit: usize) -> Result<(), Fault> {
        if self.frame.is_some() {
            return Err("it has two frames");
        }
        if byte(body, 0)? != 8 {
            return Err("it has not 8 bits a sample");
        }
        let (height, width) = (usize::from(word(body, 1)?), usize::from(word(body, 3)?));
        let count = usize::from(byte(body, 5)?);
        if width == 0 || height == 0 || width * height > limit {
            return Err("it has no pixels, or too many");
        }
        if !matches!(count, 1 | 3 | 4) || body.len() != 6 + 3 * count {
            return Err("it has not 1, 3 or 4 components");
        }
        let mut components: Vec<Component> = Vec::with_capacity(count);
        for entry in body[6..].chunks_exact(3) {
            let [id, factors, quantizer] = [entry[0], entry[1], entry[2]];
            let factors = [usize::from(factors >> 4), usize::from(factors & 15)];
            if factors.iter().any(|f| !(1..=4).contains(f)) || components.iter().any(|c| c.id == id) {
                return Err("its components contradict each other");
            }
            components.push(Component {
                id,
                factors,
                quantizer: usize::from(quantizer),
                size: [0; 2],
                blocks: [0; 2],
                coefficients: Vec::new(),
                plane: Vec::new(),
                steps: None,
            });
        }
        let largest = [0, 1].map(|axis| components.iter().map(|c| c.factors[axis]).max().unwrap_or(1));
        for component in &mut components {
            for (axis, side) in [width, height].into_iter().enumerate() {
                if !largest[axis].is_multiple_of(component.factors[axis]) {
                    return Err("its sampling is not supported");
                }
                component.size[axis] = (side * component.factors[axis]).div_ceil(largest[axis]);
                component.blocks[axis] = side.div_ceil(8 * largest[axis]) * component.factors[axis];
            }
            let blocks = component.blocks[0] * component.blocks[1];
            component.plane = reserved(64 * blocks, 128)?;
            if progressive {
                component.coefficients = reserved(blocks, [0; 64])?;
            }
        }
        self.frame = Some(Frame { progressive, width, height, components, largest });
        Ok(())
    }

    /// Decodes the scan whose data begin at `at`; returns where the next marker is.
    fn scan(&mut self, body: &[u8], bytes: &[u8], at: usize) -> Result<usize, Fault> {
        self.scans += 1;
        if self.scans > MOST_SCANS {
            return Err("it has more scans than any encoder writes");
        }
        let frame = self.frame.as_mut().ok_or("there is no frame before its data")?;
        let count = usize::from(byte(body, 0)?);
        if !(1..=4).contains(&count) || body.len() != 4 + 2 * count {
            return Err("a scan of no components");
        }
        let mut chosen: Vec<(usize, Option<&Codes>, Option<&Codes>)> = Vec::with_capacity(count);
        for entry in body[1..1 + 2 * count].chunks_exact(2) {
            let index = frame.components.iter().position(|c| c.id == entry[0]);
            let index: Option<usize> = index.filter(|i| chosen.iter().all(|(other, ..)| other != i));
            let index = index.ok_or("a scan of a component that it does not have")?;
            let codes =
                |class: usize, at: u8| self.codes[class].get(usize::from(at)).and_then(Option::as_deref);
            chosen.push((index, codes(0, entry[1] >> 4), codes(1, entry[1] & 15)));
            let component = &mut frame.components[index];
            if component.steps.is_none() {
                let steps = self.quantizers.get(component.quantizer).copied().flatten();
                component.steps = Some(steps.ok_or("a quantization table is missing")?);
            }
        }
        let [start, end, bits] = [body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count]];
        let part = Part { band: [start.into(), end.into()], bits: [bits >> 4, bits & 15] };
        let sound = !frame.progressive
            || part.bits[0] <= 13
                && part.bits[1] <= 13
                && if start == 0 { end == 0 } else { start <= end && end < 64 && count == 1 };
        if !sound {
            return Err("a scan of no band of coefficients");
        }

        // Alone, a component has only the blocks that belong to the picture.
        let units = match chosen[..] {
            [(index, ..)] => frame.components[index].size.map(|side| side.div_ceil(8)),
            _ => [0, 1].map(|axis| [frame.width, frame.height][axis].div_ceil(8 * frame.largest[axis])),
        };
        let mut reader = Bits::new(bytes, at);
        let mut last = [0i32; 4];
        let mut rest = 0;
        for unit in 0..units[0] * units[1] {
            if self.restart > 0 && unit > 0 && unit.is_multiple_of(self.restart) {
                reader.restart(((unit / self.restart - 1) & 7) as u8)?;
                (last, rest) = ([0; 4], 0);
            }
            let (ux, uy) = (unit % units[0], unit / units[0]);
            for (slot, &(index, dc, ac)) in chosen.iter().enumerate() {
                let component = &mut frame.components[index];
                let [across, down] = if chosen.len() == 1 { [1, 1] } else { component.factors };
                for inner in 0..across * down {
                    let (x, y) = (ux * across + inner % across, uy * down + inner / across);
                    let missing = "a Huffman table is missing";
                    if frame.progressive {
                        let block = &mut component.coefficients[y * component.blocks[0] + x];
                        if start == 0 {
                            entropy::first(&mut reader, dc, part, &mut last[slot], block)?;
                        } else {
                            entropy::others(&mut reader, ac.ok_or(missing)?, part, &mut rest, block)?;
                        }
                    } else {
                        let mut block = [0; 64];
                        let (dc, ac) = (dc.ok_or(missing)?, ac.ok_or(missing)?);
                        entropy::whole(&mut reader, dc, ac, &mut last[slot], &mut block)?;
                        component.store(&block, x, y);
                    }
                }
            }
        }
        // Fill bits and stray bytes are passed over, as everybody does.
        let tail = bytes.get(reader.at..).unwrap_or_default();
        let next =
            tail.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff));
        next.map(|n| reader.at + n).ok_or("a marker is missing")
    }

    /// Puts the components together.
    fn finish(self) -> Result<Picture, Fault> {
        let mut frame = self.frame.ok_or("there is no frame")?;
        if frame.components.iter().any(|component| component.steps.is_none()) {
            return Err("a component has no data");
        }
        for component in &mut frame.components {
            let coefficients = std::mem::take(&mut component.coefficients);
            for (i, block) in coefficients.iter().enumerate() {
                component.store(block, i % component.blocks[0], i / component.blocks[0]);
            }
        }
        let (width, height, channels) = (frame.width, frame.height, frame.components.len());
        // JFIF means luma and chroma; without it Adobe's marker says what it is, or the components' names do.
        let names: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        let rgb = !self.jfif && self.adobe.map_or(names == *b"RGB", |transform| transform == 0);
        let mut samples = reserved(width * height * channels, 0)?;
        let mut rows: Vec<Vec<u8>> = Vec::with_capacity(channels);
        for component in &frame.components {
            let across = frame.largest[0] / component.factors[0];
            rows.push(reserved(across * component.size[0], 0)?);
        }
        for (y, out) in samples.chunks_exact_mut(width * channels).enumerate() {
            for (row, component) in rows.iter_mut().zip(&frame.components) {
                component.seen(frame.largest).row(y, row);
            }
            match &rows[..] {
                [luma, blue, red] if !rgb => samples::to_rgb(luma, blue, red, out),
                rows => {
                    for (channel, row) in rows.iter().enumerate() {
                        out.iter_mut()
                            .skip(channel)
                            .step_by(channels)
                            .zip(row)
                            .for_each(|(out, v)| *out = *v);
                    }
                }
            }
        }
        Ok(Picture { width, height, channels, samples })
    }
}

impl Component {
    /// Transforms a block into its place.
    fn store(&mut self, block: &Block, x: usize, y: usize) {
        let stride = 8 * self.blocks[0];
        if let Some(steps) = &self.steps {
            samples::inverse(block, steps, &mut self.plane, 8 * (y * stride + x), stride);
        }
    }

    fn seen(&self, largest: [usize; 2]) -> Plane<'_> {
        Plane {
            samples: &self.plane,
            stride: 8 * self.blocks[0],
            width: self.size[0],
            height: self.size[1],
            across: largest[0] / self.factors[0],
            down: largest[1] / self.factors[1],
        }
    }
}

/// A vector of so many equal values, or the fault that there is no memory for it.
fn reserved<T: Copy>(count: usize, value: T) -> Result<Vec<T>, Fault> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(count).map_err(|_| "there is no memory for its pixels")?;
    vector.resize(count, value);
    Ok(vector)
}
