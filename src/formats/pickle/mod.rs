//! Reading pickles without running them.
//!
//! A pickle is a program for a stack machine that may name any function of the machine it runs on and call
//! it. Here the program builds a tree and nothing else: the opcodes are those that plain data needs, the
//! names are an allow-list, and a "call" of such a name becomes a node of the tree for the reader of the
//! file format to understand. The tree lives in an arena, so that cycles and any depth are harmless; whatever
//! grows is charged to the file's [`Budget`] first, so that the tree is never much larger than the file.

use std::borrow::Cow;
use std::path::Path;

use super::elements::{Budget, ByteOrder, Dtype, MAX_DIMENSIONS, MAX_NAME};
use crate::Result;

mod machine;

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
    /// `numpy.core.multiarray.scalar`: a number that NumPy computed, such as a class index.
    Scalar,
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
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"scalar") => Global::Scalar,
            (b"numpy", b"ndarray") => Global::Ndarray,
            (b"numpy", b"dtype") => Global::NumpyDtype,
            (b"_codecs", b"encode") => Global::Encode,
            _ => return None,
        })
    }
}

/// What a node is. Texts and bytes are parts of the input.
#[derive(Debug)]
#[allow(
    clippy::box_collection,
    reason = "a node of 24 bytes instead of 32: there are many, and few are lists"
)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Text(&'a str),
    Bytes(&'a [u8]),
    Tuple(Box<[Ref]>),
    List(Box<Vec<Ref>>),
    Dict(Box<Vec<(Ref, Ref)>>),
    Global(Global),
    /// What would be a call, and the state that was set on its result.
    Call(Global, Ref, Option<Ref>),
    /// A reference to something outside the pickle.
    Persistent(Ref),
}

/// A pickle as a tree.
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
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
    /// An opcode or a name that plain data does not need, a pickle that is cut off or unsound, more objects
    /// than a file of this size warrants.
    pub fn parse(path: &'a Path, bytes: &'a [u8], start: usize, budget: &mut Budget) -> Result<Self> {
        machine::run(path, bytes, start, budget)
    }

    /// The ids of everything outside the pickle that it refers to.
    pub fn persistent(&self) -> impl Iterator<Item = Ref> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(*id),
            _ => None,
        })
    }

    /// What a node is.
    pub fn node(&self, at: Ref) -> &Node<'a> {
        &self.nodes[at.0 as usize]
    }

    /// The text of a node, if it is one (Python 2's byte texts count).
    pub fn text(&self, at: Ref) -> Option<&'a str> {
        match *self.node(at) {
            Node::Text(text) => Some(text),
            // Of any length, it could be asked for, and looked through, over and over.
            Node::Bytes(bytes) if bytes.len() <= MAX_NAME => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The bytes of a node, if it has any.
    pub fn bytes(&self, at: Ref) -> Option<Cow<'a, [u8]>> {
        match *self.node(at) {
            Node::Bytes(bytes) | Node::Long(bytes) => Some(Cow::Borrowed(bytes)),
            // Protocol 2 has no bytes: Python writes encode(text, 'latin1').
            Node::Call(Global::Encode, arguments, _) => {
                let &[text, encoding] = self.tuple(arguments)? else { return None };
                if !matches!(self.text(encoding)?, "latin1" | "latin-1") {
                    return None;
                }
                let latin: Option<Vec<u8>> =
                    self.text(text)?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                latin.map(Cow::Owned)
            }
            _ => None,
        }
    }

    /// The integer of a node, if it is one; NumPy's integers count.
    pub fn int(&self, at: Ref) -> Option<i64> {
        match *self.node(at) {
            Node::Int(value) => Some(value),
            Node::Call(Global::Scalar, arguments, _) => {
                let &[dtype, bytes] = self.tuple(arguments)? else { return None };
                let (dtype, order) = self.element_type(dtype)?;
                dtype.integer(&self.bytes(bytes)?, order)
            }
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

    /// A NumPy element type and its byte order.
    fn element_type(&self, at: Ref) -> Option<(Dtype, ByteOrder)> {
        let Node::Call(Global::NumpyDtype, arguments, state) = *self.node(at) else { return None };
        let kind = self.text(*self.tuple(arguments)?.first()?)?;
        // The state's second item is the byte order.
        let order = match state {
            Some(state) => self.text(*self.tuple(state)?.get(1)?)?,
            None => "|",
        };
        super::elements::element_type(&format!("{order}{kind}"))
    }

    /// A NumPy array, if the node is one that is understood.
    pub fn array(&self, at: Ref) -> Option<ArrayView<'a>> {
        let Node::Call(Global::Reconstruct, _, Some(state)) = *self.node(at) else { return None };
        let [_version, shape, dtype, fortran, data] = *self.tuple(state)? else { return None };
        let (dtype, order) = self.element_type(dtype)?;
        let fortran = match self.node(fortran) {
            Node::Bool(fortran) => *fortran,
            Node::Int(fortran) => *fortran != 0,
            _ => return None,
        };
        Some(ArrayView { dtype, order, shape: self.sizes(shape)?, fortran, data: self.bytes(data)? })
    }
}

#[cfg(any(fuzzing, test))]
impl Pickle<'_> {
    /// Asks every node for all that it might be.
    pub fn ask_everything(&self) {
        for i in 0..self.nodes.len() as u32 {
            let at = Ref(i);
            let _ = (self.array(at), self.bytes(at), self.sizes(at), self.text(at), self.int(at));
        }
        assert!(self.persistent().all(|id| (id.0 as usize) < self.nodes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
        Pickle::parse(Path::new("p.pkl"), bytes, 0, &mut Budget::new(bytes.len()))
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
                p.ask_everything();
            }
        }
    }
}
