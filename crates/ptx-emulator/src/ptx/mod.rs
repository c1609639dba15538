//! PTX text to statements: a lexer, and a parser that knows declarations and the shape of instructions but not their meaning.

mod declarations;
mod lexer;
mod parser;

use std::collections::HashMap;

pub(crate) use parser::parse;

/// Where a token stands: line and column, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub line: u32,
    pub column: u32,
}

/// A parsed module.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub version: (u32, u32),
    pub target: String,
    /// `.file` names by number.
    pub files: HashMap<u32, String>,
    pub functions: Vec<Function>,
    /// `.global`, `.const` and `.shared` variables at module scope.
    pub variables: Vec<Declared>,
}

/// State space of a declared variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A declared variable.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub name: String,
    pub home: Home,
    pub align: u32,
    pub bytes: u64,
    /// `.extern .shared x[]`: dynamic shared memory.
    pub dynamic: bool,
    pub is_extern: bool,
    pub data: Vec<u8>,
    /// Offset, symbol, addend.
    pub relocations: Vec<(usize, String, u64)>,
}

/// Width of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Pred,
    B16,
    B32,
    B64,
}

/// A `.entry` or `.func`.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    pub place: Place,
    pub is_entry: bool,
    pub has_body: bool,
    pub parameters: Vec<Declared>,
    pub returns: Vec<Declared>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub min_blocks: Option<u32>,
    pub max_registers: Option<u32>,
    /// Scope 0 is the body.
    pub scopes: Vec<Scope>,
    pub body: Vec<Statement>,
}

/// What a pair of braces declares.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub parent: Option<usize>,
    /// Single registers.
    pub registers: HashMap<String, Class>,
    /// `%r<10>`: prefix → class and count.
    pub ranges: HashMap<String, (Class, u32)>,
    pub variables: HashMap<String, Declared>,
    /// Label → index into the body.
    pub labels: HashMap<String, usize>,
    /// `.branchtargets` by label.
    pub tables: HashMap<String, Vec<String>>,
}

/// An instruction as written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statement {
    pub place: Place,
    /// `.loc`: file number and line.
    pub source: Option<(u32, u32)>,
    pub scope: usize,
    /// Guard's predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// Opcode with all its modifiers, `ld.global.f32`.
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub text: String,
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, variable, label or special register.
    Name(String),
    /// `!p`.
    Not(String),
    /// An integer.
    Int(u64),
    /// `0f3F800000`: the bits.
    F32(u32),
    /// `0d3FF0000000000000`, or a decimal number: the bits.
    F64(u64),
    /// `name+8`, or the same in brackets: name (or none) and offset; `true` in brackets.
    Address(Option<String>, i64, bool),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `(a, b)`, of calls.
    Group(Vec<Operand>),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`.
    Sink,
}
