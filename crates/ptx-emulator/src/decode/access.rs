//! Loads, stores, atomics and asynchronous copies.

use super::operands::class_of_type;
use super::{Decoder, Instance, Opcode, Result};
use crate::code::{Inst, NONE, Traffic, Work};
use crate::counters::InstructionClass;
use crate::exec::ops::address::{LONG, OBSERVES, RELEASES, SIGNED, STRONG, SYNC, WIDE};
use crate::exec::ops::{asynchronous, atomic, memory, moves};
use crate::ptx::{Class, Operand, Statement};

/// Modifiers that say how caches should behave.
const CACHE: [&str; 20] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_last",
    "L1::evict_first",
    "L1::evict_normal",
    "L1::no_allocate",
    "L1::evict_unchanged",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::evict_last",
    "L2::evict_first",
    "L2::evict_normal",
    "weak",
];
/// Modifiers of accesses meant to be seen by others.
const SEEN: [&str; 7] = ["volatile", "relaxed", "acquire", "release", "acq_rel", "sc", "mmio"];
const SCOPES: [&str; 4] = ["cta", "gpu", "sys", "cluster"];

impl<'a> Decoder<'a> {
    pub(super) fn access(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
    ) -> Result<bool> {
        match op.base.as_str() {
            "ld" | "ldu" => self.load_or_store(instance, s, op, false)?,
            "st" => self.load_or_store(instance, s, op, true)?,
            "atom" | "red" => self.atomic(instance, s, op)?,
            "cp" => return self.copy(instance, s, op),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn load_or_store(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
        is_store: bool,
    ) -> Result<()> {
        let ty = op.last()?;
        let (bytes, signed) = element(&ty)?;
        let lanes = match op.one_of(&["v2", "v4", "v8"]).as_deref() {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        if bytes * u32::from(lanes) > 32 {
            return Err("the access is too wide".to_owned());
        }
        let mut flags = bytes.trailing_zeros() as u16;
        while op.one_of(&CACHE).is_some() {}
        let mut acquires = false;
        while let Some(order) = op.one_of(&SEEN) {
            flags |= SYNC | if is_store { 0 } else { OBSERVES };
            flags |= if order == "volatile" { 0 } else { STRONG };
            flags |= if releases(&order) { RELEASES } else { 0 };
            acquires |= order != "volatile" || !is_store;
        }
        op.one_of(&SCOPES);
        let space = op
            .one_of(&[
                "global",
                "shared",
                "shared::cta",
                "local",
                "const",
                "param",
                "param::entry",
                "param::func",
            ])
            .unwrap_or_default();
        let [first, second] = super::moves::two(s)?;
        let (address, value) = if is_store { (first, second) } else { (second, first) };
        let values: Vec<&Operand> = match value {
            Operand::Vector(all) => all.iter().collect(),
            one => vec![one],
        };
        if values.len() != usize::from(lanes) {
            return Err("a vector of another length expected".to_owned());
        }
        let (base, wide, offset) = self.address(instance, s, address)?;
        // Parameters of calls are local memory of the caller; those of kernels are the launch's bytes.
        let in_frame = space.starts_with("param") && !self.is_kernel_parameter(instance, s, address)?;
        let kernel_parameter = space.starts_with("param") && !in_frame;
        let space = if in_frame { "local" } else { space.as_str() };
        // All values have one class.
        let mut rows = Vec::new();
        let mut long = bytes == 8;
        for v in values {
            let class = if bytes == 8 { Class::B64 } else { Class::B32 };
            let row = match (is_store, v) {
                (true, Operand::Name(_)) => {
                    let r =
                        self.source(instance, s, v, class).or_else(|_| self.any_target(instance, s, v))?;
                    long |= r & crate::code::CONSTANT == 0 && self.class_of(r) == Class::B64;
                    r
                }
                (true, v) => self.source(instance, s, v, class)?,
                (false, Operand::Sink) => self.temporary(class),
                (false, v) => {
                    let r = self.any_target(instance, s, v)?;
                    long |= self.class_of(r) == Class::B64;
                    if self.class_of(r) == Class::Pred || (bytes == 8 && self.class_of(r) != Class::B64) {
                        return Err("the register has the wrong size".to_owned());
                    }
                    r
                }
            };
            rows.push(row);
        }
        if kernel_parameter {
            if is_store {
                return Err("parameters of kernels cannot be written".to_owned());
            }
            self.class(InstructionClass::Move, Work::None);
            let mut inst = Inst::new(moves::parameter());
            inst.flags = bytes as u16 | if signed { 256 } else { 0 } | if long { 512 } else { 0 };
            inst.imm = offset;
            inst.a =
                if wide || base == NONE { base } else { return Err("64-bit addresses expected".to_owned()) };
            inst.lanes = lanes;
            inst.more_defs = lanes;
            inst.more = rows.into();
            self.push(inst);
            return Ok(());
        }
        let handler = match (space, is_store) {
            ("global" | "const", false) => memory::ld_global(),
            ("global", true) => memory::st_global(),
            ("shared" | "shared::cta", false) => memory::ld_shared(),
            ("shared" | "shared::cta", true) => memory::st_shared(),
            ("local", false) => memory::ld_local(),
            ("local", true) => memory::st_local(),
            ("", false) => memory::ld_generic(),
            ("", true) => memory::st_generic(),
            _ => return Err(format!("the space `.{space}` is not supported here")),
        };
        self.note_access(space, is_store, bytes * u32::from(lanes));
        if is_store && flags & SYNC != 0 && matches!(space, "global" | "") {
            self.code.global_atomics = true;
        }
        // A load that waits for what other blocks store: their order matters.
        if acquires && matches!(space, "global" | "") {
            self.code.ordered = true;
        }
        flags |= if signed { SIGNED } else { 0 } | if long { LONG } else { 0 } | if wide { WIDE } else { 0 };
        let mut inst = Inst::new(handler);
        inst.flags = flags;
        inst.lanes = lanes;
        inst.a = base;
        inst.imm = offset;
        inst.more_defs = if is_store { 0 } else { lanes };
        inst.more = rows.into();
        self.push(inst);
        Ok(())
    }

    /// Sets class and traffic of an access, and the grain of the race checks.
    fn note_access(&mut self, space: &str, is_store: bool, bytes: u32) {
        let class = match (space, is_store) {
            ("shared" | "shared::cta", false) => InstructionClass::SharedLoad,
            ("shared" | "shared::cta", true) => InstructionClass::SharedStore,
            ("local", false) => InstructionClass::LocalLoad,
            ("local", true) => InstructionClass::LocalStore,
            (_, false) => InstructionClass::GlobalLoad,
            (_, true) => InstructionClass::GlobalStore,
        };
        self.class(class, Work::None);
        self.traffic(if is_store { Traffic::Store } else { Traffic::Load });
        if space != "global" && space != "const" {
            self.code.shared_grain = self.code.shared_grain.min(bytes);
        }
        if !space.starts_with("shared") {
            self.code.global_grain = self.code.global_grain.min(bytes);
        }
    }

    /// Whether an address in the `.param` space is one of the kernel's own parameters.
    fn is_kernel_parameter(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        address: &Operand,
    ) -> Result<bool> {
        let Operand::Address(Some(name), ..) = address else { return Ok(true) };
        Ok(match self.symbol(instance, s.scope, name) {
            Ok(super::operands::Symbol::Frame(_)) => false,
            Ok(_) => true,
            // A register: only kernels index their parameters.
            Err(_) => instance.function.is_entry,
        })
    }

    /// Writes zeros to the eight bytes of a call's result.
    pub(super) fn store_zero(&mut self, offset: u32) {
        let mut inst = Inst::new(memory::st_local());
        inst.flags = 2 | WIDE;
        inst.imm = i64::from(offset);
        inst.more = vec![self.constant(0, Class::B32)].into();
        self.class(InstructionClass::LocalStore, Work::None);
        self.push(inst);
    }

    fn atomic(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Atomic, Work::None);
        self.traffic(Traffic::Store);
        let is_red = op.base == "red";
        let ty = op.last()?;
        let order = op.one_of(&SEEN);
        op.one_of(&SCOPES);
        op.flag("noftz");
        op.flag("L2::cache_hint");
        let space = op.one_of(&["global", "shared", "shared::cta"]).unwrap_or_default();
        let name = op.first()?;
        let operation = atomic::Operation::named(&name, &ty)
            .ok_or_else(|| format!("the operation `.{name}.{ty}` is not supported"))?;
        let class = class_of_type(&ty)?;
        let (d, address, values) = match (&s.operands[..], is_red) {
            ([address, values @ ..], true) => (None, address, values),
            ([d, address, values @ ..], false) => (Some(d), address, values),
            _ => return Err("operands are missing".to_owned()),
        };
        let (base, wide, offset) = self.address(instance, s, address)?;
        let (bytes, _) = element(&ty)?;
        let mut inst = Inst::new(match space.as_str() {
            "global" => atomic::global(),
            "" => atomic::generic(),
            _ => atomic::shared(),
        });
        inst.a = base;
        inst.imm = offset;
        inst.flags =
            bytes.trailing_zeros() as u16 | if wide { WIDE } else { 0 } | if bytes == 8 { LONG } else { 0 };
        inst.target = operation.code();
        inst.flags |= if order.as_deref().is_some_and(releases) { RELEASES } else { 0 };
        let wanted = if name == "cas" { 2 } else { 1 };
        if values.len() != wanted {
            return Err("another number of operands expected".to_owned());
        }
        inst.b = self.source(instance, s, &values[0], class)?;
        if let Some(v) = values.get(1) {
            inst.c = self.source(instance, s, v, class)?;
        }
        let mut result_used = false;
        match d {
            None | Some(Operand::Sink) => {}
            Some(d) => {
                inst.d = self.target(instance, s, d, class)?;
                let Operand::Name(d) = d else { return Err("a register expected".to_owned()) };
                // Compilers write `atom` also where nobody reads the result.
                result_used = instance.function.body.iter().any(|other| reads(other, d));
            }
        }
        inst.flags |= if result_used { OBSERVES } else { 0 };
        if !space.starts_with("shared") {
            self.code.global_atomics = true;
            self.code.ordered |= result_used || operation.depends_on_order();
            self.code.global_grain = self.code.global_grain.min(bytes);
        }
        if space != "global" {
            self.code.shared_grain = self.code.shared_grain.min(bytes);
        }
        self.push(inst);
        Ok(())
    }

    fn copy(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<bool> {
        if !op.flag("async") || op.has("bulk") {
            return Ok(false);
        }
        self.class(InstructionClass::AsyncCopy, Work::None);
        if op.flag("commit_group") {
            self.push(Inst::new(asynchronous::commit()));
            return Ok(true);
        }
        if op.flag("wait_group") || op.flag("wait_all") {
            let mut inst = Inst::new(asynchronous::wait());
            inst.imm = match &s.operands[..] {
                [Operand::Int(n)] => *n as i64,
                _ => -1,
            };
            self.push(inst);
            return Ok(true);
        }
        if op.has("mbarrier") {
            return Ok(false);
        }
        self.traffic(Traffic::Load);
        op.one_of(&["ca", "cg"]);
        op.one_of(&["shared", "shared::cta"]);
        op.flag("global");
        op.one_of(&["L2::64B", "L2::128B", "L2::256B"]);
        op.flag("L2::cache_hint");
        let [to, from, Operand::Int(bytes), rest @ ..] = &s.operands[..] else {
            return Err("two addresses and a size expected".to_owned());
        };
        if !matches!(bytes, 4 | 8 | 16) {
            return Err("4, 8 or 16 bytes can be copied".to_owned());
        }
        let (to, to_wide, to_offset) = self.address(instance, s, to)?;
        let (from, from_wide, from_offset) = self.address(instance, s, from)?;
        let mut inst = Inst::new(asynchronous::copy());
        inst.a = to;
        inst.imm = to_offset;
        inst.flags = bytes.trailing_zeros() as u16 | if to_wide { WIDE } else { 0 };
        inst.b = from;
        if !from_wide {
            return Err("global addresses take 64 bits".to_owned());
        }
        inst.target = from_offset as u32;
        match rest {
            [] => {}
            [size] => {
                // `src-size`, or a predicate that says to ignore the source.
                let ignore = self.predicate(instance, s, size);
                match (ignore, size) {
                    (Ok(p), Operand::Name(_) | Operand::Not(_)) => {
                        inst.c = p;
                        inst.flags |= asynchronous::IGNORE;
                    }
                    _ => inst.c = self.source(instance, s, size, Class::B32)?,
                }
            }
            _ => return Err("cache policies are not supported".to_owned()),
        }
        self.code.shared_grain = self.code.shared_grain.min(*bytes as u32);
        self.code.global_grain = self.code.global_grain.min(*bytes as u32);
        self.push(inst);
        Ok(true)
    }
}

/// Whether an access of this order publishes what came before it.
fn releases(order: &str) -> bool {
    matches!(order, "release" | "acq_rel" | "sc")
}

/// Whether a statement reads a register: it is an operand that is not the first, part of an address, or the guard.
fn reads(s: &Statement, register: &str) -> bool {
    fn mentions(o: &Operand, r: &str) -> bool {
        match o {
            Operand::Name(n) | Operand::Not(n) | Operand::Address(Some(n), ..) => n == r,
            Operand::Vector(all) | Operand::Group(all) => all.iter().any(|o| mentions(o, r)),
            Operand::Pair(a, b) => mentions(a, r) || mentions(b, r),
            _ => false,
        }
    }
    let stores = s.opcode.starts_with("st") || s.opcode.starts_with("red") || s.opcode.starts_with("cp");
    let skipped = usize::from(!stores);
    s.guard.as_ref().is_some_and(|g| g.0 == register)
        || s.operands.iter().skip(skipped).any(|o| mentions(o, register))
        || matches!(s.operands.first(), Some(o @ Operand::Address(..)) if mentions(o, register))
}

/// Bytes of an element and whether it is signed.
fn element(ty: &str) -> Result<(u32, bool)> {
    Ok(match ty {
        "b8" | "u8" => (1, false),
        "s8" => (1, true),
        "b16" | "u16" | "f16" | "bf16" => (2, false),
        "s16" => (2, true),
        "b32" | "u32" | "f32" | "f16x2" | "bf16x2" => (4, false),
        "s32" => (4, true),
        "b64" | "u64" | "f64" => (8, false),
        "s64" => (8, true),
        _ => return Err(format!("the type `.{ty}` is not supported here")),
    })
}
