//! Where variables live: kernel parameters, shared memory, a thread's local memory.

use std::collections::{HashMap, HashSet};

use crate::module::Parameter;
use crate::ptx::{Declared, Function, Home, Operand, Text};

/// Bytes between two shared variables that belong to neither, so that running past one is noticed.
const GAP: u32 = 32;

/// A kernel's memory layout.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Offset of static shared variables, by function, scope and name (module scope: empty function).
    shared: HashMap<(String, usize, String), u32>,
    pub ranges: Vec<(u32, u32)>,
    /// Past the last static variable, as laid out here.
    pub shared_end: u32,
    /// Bytes that the variables take as the assembler lays them out, without gaps.
    pub natural_shared: u32,
    pub dynamic_start: u32,
    pub dynamic_used: bool,
    dynamic: HashSet<String>,
    /// Bytes of local memory so far.
    pub local: u32,
}

/// A kernel's parameters in their order, each at its alignment.
pub(super) fn parameters(function: &Function) -> Vec<Parameter> {
    let mut offset = 0_usize;
    let mut out = Vec::new();
    for p in &function.parameters {
        offset = offset.next_multiple_of(p.align as usize);
        let (size, align) = (p.bytes as usize, p.align as usize);
        out.push(Parameter { name: p.name.clone(), offset, size, align });
        offset += size;
    }
    out
}

impl Layout {
    /// Lays out the shared variables of a kernel, of all functions it might call, and those of the module that are named.
    pub fn new(text: &Text, kernel: &Function) -> Self {
        let functions = || {
            let others = text.functions.iter().filter(|f| !f.is_entry);
            std::iter::once(kernel).chain(others)
        };
        let mut named = HashSet::new();
        for f in functions() {
            f.body.iter().flat_map(|s| &s.operands).for_each(|o| names(o, &mut named));
        }
        let mut out = Self::default();
        let mut dynamic_align = 1;
        let mut place = |out: &mut Self, key: (String, usize, String), v: &Declared| {
            if v.dynamic {
                out.dynamic_used = true;
                dynamic_align = dynamic_align.max(v.align);
                out.dynamic.insert(v.name.clone());
                return;
            }
            // More than any GPU has: said so when the kernel is decoded.
            if v.bytes > u64::from(u32::MAX / 4) || out.shared_end > u32::MAX / 4 {
                out.natural_shared = u32::MAX;
                return;
            }
            let start = exactly(if out.shared_end == 0 { 0 } else { out.shared_end + GAP }, v.align);
            out.shared.insert(key, start);
            out.shared_end = start + v.bytes as u32;
            out.ranges.push((start, out.shared_end));
            out.natural_shared = out.natural_shared.next_multiple_of(v.align).saturating_add(v.bytes as u32);
        };
        for v in text.variables.iter().filter(|v| v.home == Home::Shared && named.contains(&v.name)) {
            place(&mut out, (String::new(), 0, v.name.clone()), v);
        }
        for f in functions() {
            for (s, scope) in f.scopes.iter().enumerate() {
                let mut variables: Vec<&Declared> = scope.variables.values().collect();
                variables.sort_by(|a, b| a.name.cmp(&b.name));
                for v in variables.into_iter().filter(|v| v.home == Home::Shared) {
                    place(&mut out, (f.name.clone(), s, v.name.clone()), v);
                }
            }
        }
        out.dynamic_start = if out.shared_end == 0 { 0 } else { out.shared_end + GAP };
        if out.dynamic_used {
            out.dynamic_start = exactly(out.dynamic_start, dynamic_align);
        } else {
            out.dynamic_start = out.shared_end;
        }
        out
    }

    /// Offset of a shared variable.
    pub fn shared(&self, function: &str, scope: usize, name: &str) -> Option<u32> {
        if self.dynamic.contains(name) {
            return Some(self.dynamic_start);
        }
        self.shared.get(&(function.to_owned(), scope, name.to_owned())).copied()
    }

    /// Room for a variable in local memory.
    pub fn take_local(&mut self, bytes: u64, align: u32) -> u32 {
        let start = self.local.next_multiple_of(align.max(1));
        self.local = start.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)).min(u32::MAX / 2);
        start
    }
}

/// The first address from `from` on that is a multiple of `align` but not of twice as much: a variable that a kernel reads
/// with more than it declared is then found out, not saved by luck.
fn exactly(from: u32, align: u32) -> u32 {
    let start = from.next_multiple_of(align);
    if start.is_multiple_of(2 * align) { start + align } else { start }
}

fn names(operand: &Operand, out: &mut HashSet<String>) {
    match operand {
        Operand::Name(n) | Operand::Address(Some(n), ..) => {
            out.insert(n.clone());
        }
        Operand::Vector(all) | Operand::Group(all) => all.iter().for_each(|o| names(o, out)),
        Operand::Pair(a, b) => {
            names(a, out);
            names(b, out);
        }
        _ => {}
    }
}
