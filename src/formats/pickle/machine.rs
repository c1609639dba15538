//! The stack machine that builds the tree.

use std::collections::HashMap;
use std::path::Path;

use super::{Global, Node, Pickle, Ref};
use crate::formats::elements::{Budget, Cursor};
use crate::{Error, Result};

/// Runs the program that starts at `start`.
pub(super) fn run<'a>(
    path: &'a Path,
    bytes: &'a [u8],
    start: usize,
    budget: &mut Budget,
) -> Result<Pickle<'a>> {
    let mut cursor = Cursor::new(path, bytes);
    cursor.at = start.min(bytes.len());
    Machine {
        cursor,
        budget,
        nodes: Vec::new(),
        interned: [None; INTERNED],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        sparse_memo: HashMap::new(),
    }
    .run()
}

/// Objects that occur over and over and never change are one node: `None`, the two truths, `()`, 0 to 255.
const INTERNED: usize = 4 + 256;

/// What the allocator needs beside the contents of a small block.
const BLOCK: usize = 16;

/// Room for `more` items, charged twice over: while a vector grows, its old place and its new one are there
/// together. Whether there was room.
fn room<T>(budget: &mut Budget, vector: &mut Vec<T>, more: usize) -> bool {
    if vector.capacity() - vector.len() >= more {
        return true;
    }
    let added = more.max(vector.len() / 4).max(4);
    budget.spend((2 * size_of::<T>()).saturating_mul(added)) && vector.try_reserve_exact(added).is_ok()
}

struct Machine<'a, 'b> {
    cursor: Cursor<'a>,
    budget: &'b mut Budget,
    nodes: Vec<Node<'a>>,
    interned: [Option<Ref>; INTERNED],
    stack: Vec<Ref>,
    marks: Vec<usize>,
    /// Objects stored under 0, 1, 2 …, as picklers do.
    memo: Vec<Ref>,
    /// Objects stored under any other number.
    sparse_memo: HashMap<u32, Ref>,
}

impl<'a> Machine<'a, '_> {
    fn run(mut self) -> Result<Pickle<'a>> {
        loop {
            let opcode = self.cursor.u8()?;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { nodes: self.nodes, root, end: self.cursor.at });
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
                let length = self.cursor.size()?;
                if length > self.cursor.bytes.len() - self.cursor.at {
                    return Err(self.fail("a frame that is longer than the file"));
                }
            }
            b'(' => {
                if !room(self.budget, &mut self.marks, 1) {
                    return Err(self.too_many());
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                let start = self.pop_mark()?;
                self.stack.truncate(start);
            }
            b'N' => self.push_interned(256, Node::None)?,
            0x88 => self.push_interned(257, Node::Bool(true))?,
            0x89 => self.push_interned(258, Node::Bool(false))?,
            b'J' => {
                let value = self.cursor.i32()?;
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.cursor.u8()?;
                self.push_interned(value.into(), Node::Int(value.into()))?;
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
                let bytes = self.counted(match opcode {
                    0x8c => 1,
                    b'X' => 4,
                    _ => 8,
                })?;
                let text = std::str::from_utf8(bytes).map_err(|_| self.fail("a text that is not UTF-8"))?;
                self.push(Node::Text(text))?;
            }
            b'U' | b'C' | b'T' | b'B' | 0x8e => {
                let bytes = self.counted(match opcode {
                    b'U' | b'C' => 1,
                    b'T' | b'B' => 4,
                    _ => 8,
                })?;
                self.push(Node::Bytes(bytes))?;
            }
            b')' => self.push_interned(259, Node::Tuple(Box::default()))?,
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let floor = self.marks.last().copied().unwrap_or(0);
                let Some(start) = self.stack.len().checked_sub(count).filter(|&s| s >= floor) else {
                    return Err(self.fail("the stack is empty"));
                };
                self.tuple(start)?;
            }
            b't' => {
                let start = self.pop_mark()?;
                self.tuple(start)?;
            }
            b']' => self.push(Node::List(Box::default()))?,
            b'}' => self.push(Node::Dict(Box::default()))?,
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let start = self.pop_mark()?;
                let items = self.stack.split_off(start);
                self.append(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let start = self.pop_mark()?;
                let items = self.stack.split_off(start);
                self.set(&items)?;
            }
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => u32::from(self.cursor.u8()?),
                    b'r' => self.cursor.u32()?,
                    _ => (self.memo.len() + self.sparse_memo.len()) as u32,
                };
                self.memoize(key)?;
            }
            b'h' | b'j' => {
                let key = if opcode == b'h' { u32::from(self.cursor.u8()?) } else { self.cursor.u32()? };
                let found = self.memo.get(key as usize).or_else(|| self.sparse_memo.get(&key));
                let Some(&found) = found else {
                    return Err(self.fail(format!("object {key} is used before it is stored")));
                };
                self.push_ref(found)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (&Node::Text(module), &Node::Text(name)) =
                    (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize])
                else {
                    return Err(self.fail("a name that is not a text"));
                };
                self.global(module.as_bytes(), name.as_bytes())?;
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

    fn too_many(&self) -> Error {
        self.fail("more objects than a file of this size warrants")
            .remedy("the file is damaged or made to exhaust memory")
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        // Lists and dictionaries have their head in a block of its own.
        let head = match node {
            Node::List(_) | Node::Dict(_) => BLOCK + size_of::<Vec<Ref>>(),
            _ => 0,
        };
        let room = self.budget.spend(head) && room(self.budget, &mut self.nodes, 1);
        if !room || self.nodes.len() >= u32::MAX as usize {
            return Err(self.too_many());
        }
        self.nodes.push(node);
        self.push_ref(Ref(self.nodes.len() as u32 - 1))
    }

    fn push_ref(&mut self, at: Ref) -> Result<()> {
        if !room(self.budget, &mut self.stack, 1) {
            return Err(self.too_many());
        }
        self.stack.push(at);
        Ok(())
    }

    /// Pushes an object that never changes: one node for all that are equal.
    fn push_interned(&mut self, slot: usize, node: Node<'a>) -> Result<()> {
        match self.interned[slot] {
            Some(known) => self.push_ref(known),
            None => {
                self.push(node)?;
                self.interned[slot] = self.stack.last().copied();
                Ok(())
            }
        }
    }

    /// Makes a tuple of what lies on the stack from `start` on.
    fn tuple(&mut self, start: usize) -> Result<()> {
        let items = self.stack.split_off(start);
        if !self.budget.spend(BLOCK + 2 * size_of_val(items.as_slice())) {
            return Err(self.too_many());
        }
        self.push(Node::Tuple(items.into()))
    }

    /// Stores the top of the stack under a number.
    fn memoize(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        if let Some(slot) = self.memo.get_mut(key as usize) {
            *slot = top;
        } else if key as usize == self.memo.len() {
            if !room(self.budget, &mut self.memo, 1) {
                return Err(self.too_many());
            }
            self.memo.push(top);
        } else {
            /// An entry of a table that is half empty, in its old place and its new one.
            const ENTRY: usize = 4 * (size_of::<(u32, Ref)>() + 1);
            if !self.sparse_memo.contains_key(&key) && !self.budget.spend(ENTRY) {
                return Err(self.too_many());
            }
            self.sparse_memo.insert(key, top);
        }
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

    /// Where on the stack the last mark is, which is taken off.
    fn pop_mark(&mut self) -> Result<usize> {
        self.marks.pop().ok_or_else(|| self.fail("a mark is missing"))
    }

    /// A length of `width` bytes and that many bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let mut length = [0u8; 8];
        length[..width].copy_from_slice(self.cursor.take(width)?);
        self.cursor.take(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
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
        let bytes = self.counted(1)?;
        if bytes.len() > 8 {
            return self.push(Node::Long(bytes));
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
                let short = |name: &[u8]| name[..name.len().min(60)].escape_ascii().to_string();
                let (module, name) = (short(module), short(name));
                let message =
                    format!("the pickle wants to use `{module}.{name}`, which plain tensors do not need");
                Err(self.fail(message).remedy(
                    "the file holds more than tensors, or is malicious; save it anew as a state dict of plain tensors",
                ))
            }
        }
    }

    fn append(&mut self, items: &[Ref]) -> Result<()> {
        let list = self.top()?;
        let Node::List(list) = &mut self.nodes[list.0 as usize] else {
            return Err(self.fail("items for what is no list"));
        };
        if !room(self.budget, list, items.len()) {
            return Err(self.too_many());
        }
        list.extend_from_slice(items);
        Ok(())
    }

    fn set(&mut self, items: &[Ref]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        let entries = match &mut self.nodes[dict.0 as usize] {
            Node::Dict(entries) if rest.is_empty() => entries,
            _ => return Err(self.fail("entries for what is no dictionary")),
        };
        if !room(self.budget, entries, pairs.len()) {
            return Err(self.too_many());
        }
        entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
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
        match (function, &items[..]) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Box::default())),
            (Global::OrderedDict, &[items]) => self.ordered_dict(items),
            (Global::OrderedDict, _) => Err(self.fail("an OrderedDict with several arguments")),
            (function, _) => self.push(Node::Call(function, arguments, None)),
        }
    }

    /// An `OrderedDict` as Python 2 pickles it: its argument is a list of [key, value] lists.
    fn ordered_dict(&mut self, items: Ref) -> Result<()> {
        let pair = |&item: &Ref| match &self.nodes[item.0 as usize] {
            Node::List(pair) => <[Ref; 2]>::try_from(pair.as_slice()).ok(),
            Node::Tuple(pair) => <[Ref; 2]>::try_from(&pair[..]).ok(),
            _ => None,
        };
        let Node::List(items) = &self.nodes[items.0 as usize] else {
            return Err(self.fail("an OrderedDict of what is no list"));
        };
        let mut entries = Box::<Vec<(Ref, Ref)>>::default();
        if !room(self.budget, &mut entries, items.len()) {
            return Err(self.too_many());
        }
        for item in items.iter() {
            let Some([key, value]) = pair(item) else {
                return Err(self.fail("an OrderedDict of what are no pairs"));
            };
            entries.push((key, value));
        }
        self.push(Node::Dict(entries))
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
