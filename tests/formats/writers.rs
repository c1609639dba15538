//! Writers of other programs' formats, with room for lies.

/// Bytes joined.
pub fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// CRC-32 (ISO-HDLC), a byte a step.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = (0..8).fold(i as u32, |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 });
    }
    !bytes.iter().fold(!0u32, |crc, &b| table[usize::from(crc as u8 ^ b)] ^ (crc >> 8))
}

/// An entry of an archive, and what its two headers say of it.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub local_name: Vec<u8>,
    pub data: Vec<u8>,
    pub flags: u16,
    pub method: u16,
    pub crc: u32,
    pub local_crc: u32,
    pub packed: u32,
    pub size: u32,
    pub local_size: u32,
    pub extra: Vec<u8>,
    /// Where the directory says that the entry is; by default where it is.
    pub offset: Option<u32>,
}

impl Entry {
    pub fn new(name: &str, data: &[u8]) -> Self {
        let (crc, size) = (crc32(data), data.len() as u32);
        Self {
            name: name.into(),
            local_name: name.into(),
            data: data.to_vec(),
            flags: 0,
            method: 0,
            crc,
            local_crc: crc,
            packed: size,
            size,
            local_size: size,
            extra: Vec::new(),
            offset: None,
        }
    }

    /// As [`Entry::new`], with a lie.
    pub fn lying(name: &str, data: &[u8], lie: impl FnOnce(&mut Self)) -> Self {
        let mut entry = Self::new(name, data);
        lie(&mut entry);
        entry
    }
}

/// An archive up to its end record, and where its directory begins.
pub fn zip_body(entries: &[Entry]) -> (Vec<u8>, usize) {
    let (mut b, mut directory) = (Vec::new(), Vec::new());
    for e in entries {
        let offset = e.offset.unwrap_or(b.len() as u32);
        let head = |crc: u32, packed: u32, size: u32, name: &[u8], extra: &[u8]| {
            let mut h = vec![20, 0];
            h.extend(e.flags.to_le_bytes());
            h.extend(e.method.to_le_bytes());
            h.extend([0; 4]);
            [crc, packed, size].iter().for_each(|v| h.extend(v.to_le_bytes()));
            h.extend((name.len() as u16).to_le_bytes());
            h.extend((extra.len() as u16).to_le_bytes());
            h
        };
        b.extend(b"PK\x03\x04");
        b.extend(head(e.local_crc, e.local_size, e.local_size, &e.local_name, &[]));
        b.extend(&e.local_name);
        b.extend(&e.data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(head(e.crc, e.packed, e.size, &e.name, &e.extra));
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(&e.name);
        directory.extend(&e.extra);
    }
    let start = b.len();
    b.extend(directory);
    (b, start)
}

/// The end record: entries, size and offset of the directory.
pub fn zip_end(count: u16, size: u32, offset: u32) -> Vec<u8> {
    let mut b = b"PK\x05\x06\0\0\0\0".to_vec();
    b.extend(count.to_le_bytes());
    b.extend(count.to_le_bytes());
    b.extend(size.to_le_bytes());
    b.extend(offset.to_le_bytes());
    b.extend([0, 0]);
    b
}

/// A whole archive.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut b, start) = zip_body(entries);
    let size = b.len() - start;
    b.extend(zip_end(entries.len() as u16, size as u32, start as u32));
    b
}

/// Opcodes that make a text.
pub fn text(text: &str) -> Vec<u8> {
    cat(&[b"X", &(text.len() as u32).to_le_bytes(), text.as_bytes()])
}

/// Opcodes that make an integer.
pub fn int(value: i64) -> Vec<u8> {
    match i32::try_from(value) {
        Ok(small) => cat(&[b"J", &small.to_le_bytes()]),
        Err(_) => cat(&[b"\x8a\x08", &value.to_le_bytes()]),
    }
}

/// Opcodes that make a tuple of integers.
pub fn tuple(values: &[i64]) -> Vec<u8> {
    let items: Vec<u8> = values.iter().flat_map(|&v| int(v)).collect();
    cat(&[b"(", &items, b"t"])
}

/// A pickle of protocol 2.
pub fn program(body: &[u8]) -> Vec<u8> {
    cat(&[b"\x80\x02", body, b"."])
}

/// A tensor in a pickle: its storage's key, class and number of elements, and the view.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub key: &'a str,
    pub class: &'a str,
    pub count: i64,
    pub offset: i64,
    pub shape: &'a [i64],
    pub strides: &'a [i64],
    /// The storage reference's sixth part, in the older layout.
    pub view: &'a [u8],
}

/// 2×3 in storage `0`.
pub const PLAIN: Tensor<'static> = Tensor {
    key: "0",
    class: "torch\nFloatStorage",
    count: 6,
    offset: 0,
    shape: &[2, 3],
    strides: &[3, 1],
    view: b"",
};

impl Tensor<'_> {
    pub fn pickled(&self) -> Vec<u8> {
        cat(&[
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage"),
            format!("c{}\n", self.class).as_bytes(),
            &text(self.key),
            &text("cpu"),
            &int(self.count),
            self.view,
            b"tQ",
            &int(self.offset),
            &tuple(self.shape),
            &tuple(self.strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ])
    }
}

/// A dictionary of values that are pickled already.
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(name, value)| cat(&[&text(name), value])).collect();
    cat(&[b"}(", &items, b"u"])
}

pub fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// 0, 1, 2 …
pub fn counting(count: usize) -> Vec<u8> {
    floats((0..count).map(|i| i as f32))
}

/// PyTorch's ZIP layout of an object and its storages.
pub fn torch_zip(object: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![Entry::new("archive/data.pkl", &program(object))];
    entries.extend(storages.iter().map(|(key, data)| Entry::new(&format!("archive/data/{key}"), data)));
    entries.push(Entry::new("archive/version", b"3\n"));
    zip(&entries)
}

pub const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// PyTorch's older layout; the counts are given apart from the bytes.
pub fn torch_old(object: &[u8], storages: &[(&str, u64, Vec<u8>)]) -> Vec<u8> {
    let keys: Vec<u8> = storages.iter().flat_map(|(key, _, _)| text(key)).collect();
    let mut b = cat(&[
        MAGIC,
        &program(&int(1001)),
        &program(&dict(&[("little_endian", b"\x88".to_vec())])),
        &program(object),
        &program(&cat(&[b"](", &keys, b"e"])),
    ]);
    for (_, count, data) in storages {
        b.extend(count.to_le_bytes());
        b.extend(data);
    }
    b
}

/// A `.npy` header of version 1 with this literal, and the data.
pub fn npy(literal: &str, data: &[u8]) -> Vec<u8> {
    let length = (literal.len() as u16 + 1).to_le_bytes();
    cat(&[b"\x93NUMPY\x01\x00", &length, literal.as_bytes(), b"\n", data])
}

/// A `.npy` of f32.
pub fn npy_floats(shape: &[usize], data: &[f32]) -> Vec<u8> {
    let shape: String = shape.iter().map(|s| format!("{s}, ")).collect();
    let literal = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    npy(&literal, &floats(data.iter().copied()))
}

/// A `.npy` with a pickled object.
pub fn npy_object(pickle: &[u8]) -> Vec<u8> {
    npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", pickle)
}

/// An array in a pickle, f32.
pub fn array(shape: &[i64], data: &[u8]) -> Vec<u8> {
    cat(&[
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01",
        &tuple(shape),
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89B",
        &(data.len() as u32).to_le_bytes(),
        data,
        b"tb",
    ])
}

/// A `.npy` of a dictionary: keys that are pickled already, values too.
pub fn npy_dict(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(key, value)| cat(&[key, value])).collect();
    npy_object(&cat(&[b"\x80\x03}(", &items, b"u."]))
}

pub const V2: u32 = 0xf993_fac9;
pub const V3: u32 = 0xf993_faca;

/// MXNet's array of layout V2 with any sizes, element type and data.
pub fn mxnet_array(sizes: &[i64], kind: i32, data: &[u8]) -> Vec<u8> {
    let mut b = cat(&[&V2.to_le_bytes(), &[0; 4], &(sizes.len() as u32).to_le_bytes()]);
    sizes.iter().for_each(|s| b.extend(s.to_le_bytes()));
    cat(&[&b, &[1, 0, 0, 0, 0, 0, 0, 0], &kind.to_le_bytes(), data])
}

/// MXNet's list of arrays.
pub fn params(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let count = (arrays.len() as u64).to_le_bytes();
    let mut b = cat(&[&0x112u64.to_le_bytes(), &[0; 8], &count]);
    arrays.iter().for_each(|(_, array)| b.extend(array));
    b.extend(count);
    for (name, _) in arrays {
        b.extend((name.len() as u64).to_le_bytes());
        b.extend(name.as_bytes());
    }
    b
}

/// safetensors with any header.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    cat(&[&(header.len() as u64).to_le_bytes(), header.as_bytes(), data])
}
