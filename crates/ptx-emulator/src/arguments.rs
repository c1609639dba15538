//! `--arg SPEC`: values and buffers for kernel parameters.

use ptx_emulator::Memory;

/// Types of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "u8" => Self::U8,
            "i8" => Self::I8,
            "u16" => Self::U16,
            "i16" => Self::I16,
            "u32" => Self::U32,
            "i32" => Self::I32,
            "u64" => Self::U64,
            "i64" => Self::I64,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// A float, rounded to nearest, as little-endian bytes.
    fn float(self, x: f64) -> Vec<u8> {
        match self {
            Self::F64 => x.to_le_bytes().to_vec(),
            Self::F32 => (x as f32).to_le_bytes().to_vec(),
            Self::Bf16 => {
                let bits = (x as f32).to_bits();
                let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
                (if x.is_nan() { 0x7fff } else { rounded } as u16).to_le_bytes().to_vec()
            }
            _ => ptx_emulator::f32_to_f16(x as f32).to_le_bytes().to_vec(),
        }
    }

    fn value(self, text: &str) -> Result<Vec<u8>, String> {
        if self.is_float() {
            return text.parse().map(|x| self.float(x)).map_err(|_| format!("`{text}` is no number"));
        }
        let number: i128 = match text.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16),
            None => text.parse(),
        }
        .map_err(|_| format!("`{text}` is no whole number"))?;
        let bits = 8 * self.bytes() as u32;
        let signed = matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64);
        let (least, most) = if signed {
            (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
        } else {
            (0, (1_i128 << bits) - 1)
        };
        if !(least..=most).contains(&number) {
            return Err(format!("{number} does not fit"));
        }
        Ok(number.to_le_bytes()[..self.bytes()].to_vec())
    }
}

/// What a buffer starts with.
#[derive(Debug)]
enum Start {
    Nothing,
    Zeros,
    /// 0, 1, 2, …
    Iota,
    /// Floats uniform in [−1, 1), integers uniform over their type.
    Random(u64),
    File(String),
}

/// A buffer's address and bytes.
pub(crate) type Placed = (u64, u64);

/// A parsed `SPEC`.
#[derive(Debug)]
pub(crate) struct Argument {
    kind: Type,
    what: What,
}

#[derive(Debug)]
enum What {
    Value(Vec<u8>),
    /// Elements (`None`: as many as the file has), and what they start with.
    Buffer(Option<u64>, Start),
}

impl Argument {
    /// Parses `type:value` or `type[count]=start`.
    pub(crate) fn parse(spec: &str) -> Result<Self, String> {
        let end = spec.find([':', '[']).ok_or("TYPE:VALUE or TYPE[COUNT] expected")?;
        let kind = Type::named(&spec[..end]).ok_or_else(|| format!("no type `{}`", &spec[..end]))?;
        if let Some(text) = spec[end..].strip_prefix(':') {
            return Ok(Self { kind, what: What::Value(kind.value(text)?) });
        }
        let (count, start) = spec[end + 1..].split_once(']').ok_or("`]` is missing")?;
        let start = match start {
            "" => Start::Nothing,
            "=zeros" => Start::Zeros,
            "=iota" => Start::Iota,
            other => match (other.strip_prefix("=random:"), other.strip_prefix("=@")) {
                (Some(seed), _) => Start::Random(seed.parse().map_err(|_| format!("`{seed}` is no seed"))?),
                (_, Some(file)) => Start::File(file.to_owned()),
                _ => return Err(format!("`{other}` is none of =zeros, =iota, =random:SEED, =@FILE")),
            },
        };
        let count = match (count, &start) {
            ("", Start::File(_)) => None,
            ("", _) => return Err("the number of elements is missing".to_owned()),
            (n, _) => Some(n.parse().map_err(|_| format!("`{n}` is no number"))?),
        };
        Ok(Self { kind, what: What::Buffer(count, start) })
    }

    /// The parameter's bytes, and for buffers their address and length, allocated in `memory`.
    pub(crate) fn place(self, memory: &mut Memory) -> Result<(Vec<u8>, Option<Placed>), String> {
        let kind = self.kind;
        let (count, start) = match self.what {
            What::Value(bytes) => return Ok((bytes, None)),
            What::Buffer(count, start) => (count, start),
        };
        let size = kind.bytes() as u64;
        let data = fill(kind, count.unwrap_or(0), start)?;
        let bytes = match (&data, count) {
            (Some(data), None) => data.len() as u64,
            (_, Some(count)) => count.checked_mul(size).ok_or("the buffer is too large")?,
            (None, None) => 0,
        };
        if data.as_ref().is_some_and(|d| d.len() as u64 != bytes) {
            return Err(format!("the file does not have {bytes} bytes"));
        }
        let address = memory.allocate(bytes).map_err(|e| e.to_string())?;
        if let Some(data) = data {
            memory.write(address, &data).map_err(|e| e.to_string())?;
        }
        Ok((address.to_le_bytes().to_vec(), Some((address, bytes))))
    }
}

/// A buffer's bytes; `None` for those that are not initialised.
fn fill(kind: Type, count: u64, start: Start) -> Result<Option<Vec<u8>>, String> {
    let each = |f: &mut dyn FnMut(u64) -> Vec<u8>| Some((0..count).flat_map(f).collect());
    Ok(match start {
        Start::Nothing => None,
        Start::Zeros => Some(vec![0; count as usize * kind.bytes()]),
        Start::Iota if kind.is_float() => each(&mut |i| kind.float(i as f64)),
        Start::Iota => each(&mut |i| i.to_le_bytes()[..kind.bytes()].to_vec()),
        Start::Random(seed) => {
            let mut state = seed;
            each(&mut |_| {
                let bits = next(&mut state);
                if kind.is_float() {
                    // 53 bits to [0, 2), then to [−1, 1).
                    kind.float((bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0)
                } else {
                    bits.to_le_bytes()[..kind.bytes()].to_vec()
                }
            })
        }
        Start::File(file) => Some(std::fs::read(&file).map_err(|e| format!("{file}: {e}"))?),
    })
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(spec: &str) -> Result<Vec<u8>, String> {
        let mut memory = Memory::new();
        let (value, buffer) = Argument::parse(spec)?.place(&mut memory)?;
        let Some((address, n)) = buffer else { return Ok(value) };
        let mut data = vec![0; n as usize];
        memory.read(address, &mut data).map_err(|e| e.to_string())?;
        Ok(data)
    }

    #[test]
    fn values() {
        assert_eq!(bytes("u32:7").unwrap(), [7, 0, 0, 0]);
        assert_eq!(bytes("i32:-1").unwrap(), [255; 4]);
        assert_eq!(bytes("f32:0.5").unwrap(), 0.5_f32.to_le_bytes());
        assert_eq!(bytes("u64:0x10").unwrap(), 16_u64.to_le_bytes());
        assert_eq!(bytes("bf16:1").unwrap(), [0x80, 0x3f]);
        assert_eq!(bytes("f16:1").unwrap(), [0x00, 0x3c]);
        assert!(bytes("u8:256").is_err());
        assert!(bytes("i8:-129").is_err());
        assert!(bytes("x:1").is_err());
        assert!(bytes("f32").is_err());
    }

    #[test]
    fn buffers() {
        assert_eq!(bytes("u16[3]=iota").unwrap(), [0, 0, 1, 0, 2, 0]);
        assert_eq!(bytes("f32[2]=zeros").unwrap(), [0; 8]);
        assert_eq!(bytes("u8[2]").unwrap(), [255; 2]);
        let random = bytes("f32[100]=random:1").unwrap();
        assert_eq!(random, bytes("f32[100]=random:1").unwrap());
        assert_ne!(random, bytes("f32[100]=random:2").unwrap());
        let inside = |b: &[u8]| (-1.0..1.0).contains(&f32::from_le_bytes(b.try_into().unwrap()));
        assert!(random.chunks(4).all(inside));
        assert!(bytes("f32[]=iota").is_err());
        assert!(bytes("f32[2]=ones").is_err());
    }
}
