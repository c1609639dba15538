//! Reading pickles without running them.
//!
//! A pickle is a program for a stack machine that may name any function of the machine it runs on and call
//! it. Here the program builds a tree and nothing else: the opcodes are those that plain data needs, the
//! names are an allow-list, and a "call" of such a name becomes a node of the tree for the reader of the
//! file format to understand. The tree lives in an arena, so that cycles and any depth are harmless.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::elements::{ByteOrder, Cursor, Dtype, MAX_DIMENSIONS};
use crate::{Error, Result};

/// A node of a [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ref(u32);

/// The names that a pickle may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2` and the older `_rebuild_tensor`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and its like, also of `torch.cuda`.
    Storage(Dtype),
    /// `torch.storage._load_from_bytes`: a storage within a pickle.
    LoadFromBytes,
    /// `numpy.core.multiarray._reconstruct`
    Reconstruct,
    /// `numpy.ndarray`
    Ndarray,
    /// `numpy.dtype`
    NumpyDtype,
    /// `_codecs.encode`: how old protocols write bytes.
    Encode,
}

impl Global {
    fn find(module: &[u8], name: &[u8]) -> Option<Self> {
        Some(match (module, name) {
            (b"collections", b"OrderedDict") => Global::OrderedDict,
            (b"torch._utils", b"_rebuild_tensor_v2" | b"_rebuild_tensor") => Global::RebuildTensor,
            (b"torch._utils", b"_rebuild_parameter") => Global::RebuildParameter,
            (b"torch.storage", b"_load_from_bytes") => Global::LoadFromBytes,
            (b"torch" | b"torch.cuda", storage) => Global::Storage(match storage {
                b"FloatStorage" => Dtype::F32,
                b"HalfStorage" => Dtype::F16,
                b"BFloat16Storage" => Dtype::Bf16,
                b"DoubleStorage" => Dtype::F64,
                b"LongStorage" => Dtype::I64,
                b"IntStorage" => Dtype::I32,
                b"ShortStorage" => Dtype::I16,
                b"CharStorage" => Dtype::I8,
                b"ByteStorage" => Dtype::U8,
                b"BoolStorage" => Dtype::Bool,
                _ => return None,
            }),
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Global::Reconstruct,
            (b"numpy", b"ndarray") => Global::Ndarray,
            (b"numpy", b"dtype") => Global::NumpyDtype,
            (b"_codecs", b"encode") => Global::Encode,
            _ => return None,
        })
    }
}

/// What a node is. Texts and bytes are ranges of the input.
#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// An integer of more than 64 bits, little-endian.
    Long(Range<usize>),
    Text(Range<usize>),
    Bytes(Range<usize>),
    Tuple(Vec<Ref>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    /// What would be a call, and the state that was set on its result.
    Call(Global, Ref, Option<Ref>),
    /// A reference to something outside the pickle.
    Persistent(Ref),
}

/// A pickle as a tree.
pub(crate) struct Pickle<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
    /// The object that was pickled.
    pub root: Ref,
    /// Where the pickle ends in the input.
    pub end: usize,
}

/// A NumPy array within a pickle.
pub(crate) struct ArrayView<'a> {
    pub dtype: Dtype,
    pub order: ByteOrder,
    pub shape: Vec<usize>,
    /// First index fastest.
    pub fortran: bool,
    pub data: Cow<'a, [u8]>,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle of protocol 2 to 5 that starts at `start`.
    ///
    /// # Errors
    /// An opcode or a name that plain data does not need, a pickle that is cut off or unsound, more nodes
    /// than a file of this size warrants.
    pub fn parse(path: &'a Path, bytes: &'a [u8], start: usize) -> Result<Self> {
        let mut cursor = Cursor::new(path, bytes);
        cursor.at = start.min(bytes.len());
        // Up to 64 bytes a node: 32 MiB + 2 × the file's size.
        let limit = (1 << 19) + bytes.len() / 32;
        Machine {
            cursor,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            limit,
        }
        .run()
    }

    /// The ids of everything outside the pickle that it refers to.
    pub fn persistent(&self) -> impl Iterator<Item = Ref> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(*id),
            _ => None,
        })
    }

    /// What a node is.
    pub fn node(&self, at: Ref) -> &Node {
        &self.nodes[at.0 as usize]
    }

    /// The text of a node, if it is one (Python 2's byte texts count).
    pub fn text(&self, at: Ref) -> Option<&'a str> {
        match self.node(at) {
            Node::Text(range) | Node::Bytes(range) => std::str::from_utf8(&self.bytes[range.clone()]).ok(),
            _ => None,
        }
    }

    /// The bytes of a node, if it has any.
    pub fn bytes(&self, at: Ref) -> Option<Cow<'a, [u8]>> {
        match self.node(at) {
            Node::Bytes(range) | Node::Long(range) => Some(Cow::Borrowed(&self.bytes[range.clone()])),
            // Protocol 2 has no bytes: Python writes encode(text, 'latin1').
            Node::Call(Global::Encode, arguments, _) => {
                let [text, encoding] = self.tuple(*arguments)? else { return None };
                if !matches!(self.text(*encoding)?, "latin1" | "latin-1") {
                    return None;
                }
                let latin: Option<Vec<u8>> =
                    self.text(*text)?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                latin.map(Cow::Owned)
            }
            _ => None,
        }
    }

    /// The integer of a node, if it is one.
    pub fn int(&self, at: Ref) -> Option<i64> {
        match self.node(at) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The items of a tuple.
    pub fn tuple(&self, at: Ref) -> Option<&[Ref]> {
        match self.node(at) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub fn dict(&self, at: Ref) -> Option<&[(Ref, Ref)]> {
        match self.node(at) {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// A tuple of at most [`MAX_DIMENSIONS`] sizes.
    pub fn sizes(&self, at: Ref) -> Option<Vec<usize>> {
        let items = self.tuple(at)?;
        if items.len() > MAX_DIMENSIONS {
            return None;
        }
        items.iter().map(|&item| usize::try_from(self.int(item)?).ok()).collect()
    }

    /// A NumPy array, if the node is one that is understood.
    pub fn array(&self, at: Ref) -> Option<ArrayView<'a>> {
        let Node::Call(Global::Reconstruct, _, Some(state)) = *self.node(at) else { return None };
        let [_version, shape, dtype, fortran, data] = *self.tuple(state)? else { return None };
        let Node::Call(Global::NumpyDtype, arguments, state) = *self.node(dtype) else { return None };
        let kind = self.text(*self.tuple(arguments)?.first()?)?;
        // The state's second item is the byte order.
        let order = match state {
            Some(state) => self.text(*self.tuple(state)?.get(1)?)?,
            None => "|",
        };
        let (dtype, order) = super::elements::element_type(&format!("{order}{kind}"))?;
        let fortran = match self.node(fortran) {
            Node::Bool(fortran) => *fortran,
            Node::Int(fortran) => *fortran != 0,
            _ => return None,
        };
        Some(ArrayView { dtype, order, shape: self.sizes(shape)?, fortran, data: self.bytes(data)? })
    }
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    nodes: Vec<Node>,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
    limit: usize,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle<'a>> {
        loop {
            let opcode = self.cursor.u8()?;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { bytes: self.cursor.bytes, nodes: self.nodes, root, end: self.cursor.at });
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => {
                let version = self.cursor.u8()?;
                if !(2..=5).contains(&version) {
                    return Err(self.fail(format!("pickle protocol {version}; 2 to 5 are supported")));
                }
            }
            // A frame's length: frames only help to read ahead.
            0x95 => {
                self.cursor.take(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'J' => {
                let value = self.cursor.i32()?;
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.cursor.u8()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = self.cursor.u16()?;
                self.push(Node::Int(value.into()))?;
            }
            0x8a => self.long()?,
            b'G' => {
                self.cursor.take(8)?;
                self.push(Node::Float)?;
            }
            0x8c | b'X' | 0x8d => {
                let range = self.counted(match opcode {
                    0x8c => 1,
                    b'X' => 4,
                    _ => 8,
                })?;
                if std::str::from_utf8(&self.cursor.bytes[range.clone()]).is_err() {
                    return Err(self.fail("a text that is not UTF-8"));
                }
                self.push(Node::Text(range))?;
            }
            b'U' | b'C' | b'T' | b'B' | 0x8e => {
                let range = self.counted(match opcode {
                    b'U' | b'C' => 1,
                    b'T' | b'B' => 4,
                    _ => 8,
                })?;
                self.push(Node::Bytes(range))?;
            }
            b')' => self.push(Node::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let floor = self.marks.last().copied().unwrap_or(0);
                let Some(start) = self.stack.len().checked_sub(count).filter(|&s| s >= floor) else {
                    return Err(self.fail("the stack is empty"));
                };
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))?;
            }
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(items)?;
            }
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => u32::from(self.cursor.u8()?),
                    b'r' => self.cursor.u32()?,
                    _ => self.memo.len() as u32,
                };
                let top = self.top()?;
                self.memo.insert(key, top);
                if self.memo.len() > self.limit {
                    return Err(self.fail("more objects than a file of this size warrants"));
                }
            }
            b'h' | b'j' => {
                let key = if opcode == b'h' { u32::from(self.cursor.u8()?) } else { self.cursor.u32()? };
                let Some(&found) = self.memo.get(&key) else {
                    return Err(self.fail(format!("object {key} is used before it is stored")));
                };
                self.stack.push(found);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |at: Ref| match &self.nodes[at.0 as usize] {
                    Node::Text(range) => Some(&self.cursor.bytes[range.clone()]),
                    _ => None,
                };
                let (Some(module), Some(name)) = (text(module), text(name)) else {
                    return Err(self.fail("a name that is not a text"));
                };
                self.global(module, name)?;
            }
            b'R' => self.call()?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            _ => {
                self.cursor.at -= 1;
                let message = format!("pickle opcode 0x{opcode:02x}, which plain data does not need");
                return Err(self.fail(message).remedy("save the file anew as plain tensors (a state dict)"));
            }
        }
        Ok(())
    }

    fn fail(&self, message: impl Into<String>) -> Error {
        self.cursor.fail(message)
    }

    fn push(&mut self, node: Node) -> Result<()> {
        if self.nodes.len() >= self.limit {
            return Err(self.fail("more objects than a file of this size warrants"));
        }
        self.stack.push(Ref(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    /// The top of the stack, above the last mark.
    fn top(&self) -> Result<Ref> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(self.fail("the stack is empty")),
        }
    }

    fn pop(&mut self) -> Result<Ref> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Ref>> {
        let mark = self.marks.pop().ok_or_else(|| self.fail("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// A length of `width` bytes and that many bytes.
    fn counted(&mut self, width: usize) -> Result<Range<usize>> {
        let mut length = [0u8; 8];
        length[..width].copy_from_slice(self.cursor.take(width)?);
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        let start = self.cursor.at;
        self.cursor.take(length)?;
        Ok(start..start + length)
    }

    /// A text that ends with a line feed.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.cursor.bytes[self.cursor.at..];
        // Names are short; a missing line feed must not make this look through the whole file each time.
        let Some(length) = rest.iter().take(256).position(|&b| b == b'\n') else {
            return Err(self.fail("a name without end"));
        };
        self.cursor.at += length + 1;
        Ok(&rest[..length])
    }

    fn long(&mut self) -> Result<()> {
        let range = self.counted(1)?;
        let bytes = &self.cursor.bytes[range.clone()];
        if bytes.len() > 8 {
            return self.push(Node::Long(range));
        }
        let negative = bytes.last().is_some_and(|&b| b >= 0x80);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(value)))
    }

    fn global(&mut self, module: &[u8], name: &[u8]) -> Result<()> {
        match Global::find(module, name) {
            Some(global) => self.push(Node::Global(global)),
            None => {
                let (module, name) = (module.escape_ascii(), name.escape_ascii());
                let message =
                    format!("the pickle wants to use `{module}.{name}`, which plain tensors do not need");
                Err(self.fail(message).remedy(
                    "the file holds more than tensors, or is malicious; save it anew as a state dict of plain tensors",
                ))
            }
        }
    }

    fn append(&mut self, items: Vec<Ref>) -> Result<()> {
        let list = self.top()?;
        match &mut self.nodes[list.0 as usize] {
            Node::List(list) => list.extend(items),
            _ => return Err(self.fail("items for what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Ref>) -> Result<()> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.nodes[dict.0 as usize] {
            Node::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)))
            }
            _ => return Err(self.fail("entries for what is no dictionary")),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Node::Global(function) = self.nodes[function.0 as usize] else {
            return Err(self.fail("a call of what is no function"));
        };
        let Node::Tuple(items) = &self.nodes[arguments.0 as usize] else {
            return Err(self.fail("a call without arguments"));
        };
        match function {
            Global::OrderedDict if items.is_empty() => self.push(Node::Dict(Vec::new())),
            Global::OrderedDict => Err(self.fail("an OrderedDict with arguments")),
            function => self.push(Node::Call(function, arguments, None)),
        }
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.top()?;
        match &mut self.nodes[object.0 as usize] {
            Node::Call(Global::Reconstruct | Global::NumpyDtype, _, slot @ None) => *slot = Some(state),
            // PyTorch sets `_metadata` (versions of modules) on state dicts.
            Node::Dict(_) => {}
            _ => return Err(self.fail("a state for what takes none")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
        Pickle::parse(Path::new("p.pkl"), bytes, 0)
    }

    #[test]
    fn plain_data_is_read() {
        // {'a': (1, -2, 300), 'b': [None, True], 5: b'xy'} by protocol 3, with memo.
        let bytes = b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xffM\x2c\x01\x87q\x02X\x01\x00\x00\x00b](N\x88eK\x05C\x02xyu.";
        let p = parse(bytes).unwrap();
        assert_eq!(p.end, bytes.len());
        let entries = p.dict(p.root).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(p.text(entries[0].0), Some("a"));
        let ints: Vec<_> = p.tuple(entries[0].1).unwrap().iter().map(|&i| p.int(i).unwrap()).collect();
        assert_eq!(ints, [1, -2, 300]);
        assert!(matches!(p.node(entries[1].1), Node::List(items) if items.len() == 2));
        assert_eq!(p.bytes(entries[2].1).unwrap().as_ref(), b"xy");
    }

    #[test]
    fn nothing_outside_the_list_is_accepted() {
        for (bytes, word) in [
            (&b"cos\nsystem\n(S'ls'\ntR."[..], "os.system"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
            (b"\x80\x02ctorch\nload\n.", "torch.load"),
            (b"\x80\x02i__main__\nX\n.", "0x69"),
            (b"\x80\x02)\x81.", "0x81"),
            (b"\x80\x09.", "protocol 9"),
            (b"\x80\x02K\x01)R.", "no function"),
            (b"\x80\x02.", "stack is empty"),
            (b"\x80\x02(K\x01.", ""),
            (b"\x80\x02h\x05.", "object 5"),
            (b"\x80\x02X\xff\xff\xff\xff.", "cut off"),
        ] {
            match parse(bytes) {
                Err(e) => assert!(e.message().contains(word), "{e}"),
                Ok(_) => assert_eq!(word, ""),
            }
        }
    }

    #[test]
    fn depth_and_cycles_are_harmless() {
        let mut deep = b"\x80\x02]".to_vec();
        deep.extend([0x85; 300_000]);
        deep.push(b'.');
        parse(&deep).unwrap();
        // A list that contains itself.
        let p = b"\x80\x02]q\x00h\x00a.";
        parse(p).unwrap();
        let mut many = b"\x80\x02(".to_vec();
        many.extend(vec![b']'; 4 << 20]);
        assert!(parse(&many).err().unwrap().message().contains("warrants"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_program_is_a_tree_or_an_error(bytes in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(&b"()}]tabseuRNQK.q\x85\x86\x87\x88\x94h\x80\x02\x00\x01c\x93"[..]),
                any::<u8>(),
            ], 0..60)
        ) {
            if let Ok(p) = parse(&bytes) {
                for i in 0..p.nodes.len() as u32 {
                    let _ = (p.array(Ref(i)), p.bytes(Ref(i)), p.sizes(Ref(i)));
                }
            }
        }
    }
}
