//! Operands: names to registers, constants and addresses.

use super::{Decoder, Instance, Result, find_variable};
use crate::code::{CONSTANT, Inst, NONE};
use crate::exec::ops::moves;
use crate::ptx::{Class, Home, Operand, Statement};

/// What a variable's name stands for.
pub(super) enum Symbol {
    Shared(u32),
    Local(u32),
    /// A parameter of a function, in local memory.
    Frame(u32),
    /// A parameter of the kernel.
    Kernel(u32),
    /// A module variable.
    Global(String),
}

/// Number of lanes in a warp, as a name in PTX.
const WARP_SIZE: &str = "WARP_SZ";

impl<'a> Decoder<'a> {
    /// A new register that has no name in the text.
    pub(super) fn temporary(&mut self, class: Class) -> u32 {
        self.code.classes.push(class);
        self.code.names.push(String::new());
        (self.code.classes.len() - 1) as u32
    }

    /// The class that a register's name is declared with, and the scope that declares it.
    fn declared(instance: &Instance<'a>, scope: usize, name: &str) -> Option<(usize, Class)> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let mut at = Some(scope);
        while let Some(s) = at {
            let declared = &instance.function.scopes[s];
            if let Some(class) = declared.registers.get(name) {
                return Some((s, *class));
            }
            if let Some((class, count)) = declared.ranges.get(prefix)
                && number.parse::<u32>().is_ok_and(|n| n < *count)
            {
                return Some((s, *class));
            }
            at = declared.parent;
        }
        None
    }

    /// The register of a name, if it is one.
    fn lookup(&mut self, instance: &mut Instance<'a>, scope: usize, name: &str) -> Option<u32> {
        let (scope, class) = Self::declared(instance, scope, name)?;
        let key = (scope, name.to_owned());
        if let Some(r) = instance.registers.get(&key) {
            return Some(*r);
        }
        let r = self.temporary(class);
        name.clone_into(&mut self.code.names[r as usize]);
        instance.registers.insert(key, r);
        Some(r)
    }

    pub(super) fn class_of(&self, register: u32) -> Class {
        self.code.classes[register as usize]
    }

    /// The register of a name, of one of some classes.
    pub(super) fn register(
        &mut self,
        instance: &mut Instance<'a>,
        scope: usize,
        name: &str,
        classes: &[Class],
    ) -> Result<u32> {
        let r = self.lookup(instance, scope, name).ok_or_else(|| format!("`{name}` is not declared"))?;
        if classes.contains(&self.class_of(r)) {
            Ok(r)
        } else {
            Err(format!("`{name}` has the wrong size here"))
        }
    }

    /// A result register of a class (16 and 32 bits are the same to rows).
    pub(super) fn target(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        operand: &Operand,
        class: Class,
    ) -> Result<u32> {
        match operand {
            Operand::Name(name) => self.register(instance, s.scope, name, like(class)),
            Operand::Sink => Ok(self.temporary(class)),
            _ => Err("a register expected".to_owned()),
        }
    }

    /// A result register of whatever class.
    pub(super) fn any_target(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        operand: &Operand,
    ) -> Result<u32> {
        match operand {
            Operand::Name(name) => {
                self.lookup(instance, s.scope, name).ok_or_else(|| format!("`{name}` is not declared"))
            }
            _ => Err("a register expected".to_owned()),
        }
    }

    /// A constant row.
    pub(super) fn constant(&mut self, bits: u64, class: Class) -> u32 {
        let wide = class == Class::B64;
        let bits = match class {
            Class::B64 => bits,
            Class::B16 => bits & 0xffff,
            _ => bits & 0xffff_ffff,
        };
        if let Some(row) = self.constants.get(&(bits, wide)) {
            return *row | CONSTANT;
        }
        let row = self.row(bits, wide);
        self.constants.insert((bits, wide), row);
        row | CONSTANT
    }

    fn row(&mut self, bits: u64, wide: bool) -> u32 {
        let rows = &mut self.code.constants;
        let start = rows.len() as u32;
        for _ in 0..32 {
            rows.push(bits as u32);
            if wide {
                rows.push((bits >> 32) as u32);
            }
        }
        start
    }

    /// A constant row that will hold a module variable's address.
    fn address_row(&mut self, symbol: &str, addend: i64) -> u32 {
        let key = (symbol.to_owned(), addend as u64);
        if let Some(row) = self.symbols.get(&key) {
            return *row | CONSTANT;
        }
        let row = self.row(0, true);
        self.code.relocations.push((row, key.0.clone(), key.1));
        self.symbols.insert(key, row);
        row | CONSTANT
    }

    /// Offset in local memory of a variable in the `.param` space of a call.
    pub(super) fn param_variable(
        &mut self,
        instance: &mut Instance<'a>,
        scope: usize,
        name: &str,
    ) -> Result<u32> {
        match self.symbol(instance, scope, name)? {
            Symbol::Frame(offset) => Ok(offset),
            _ => Err(format!("`{name}` is no parameter of a call")),
        }
    }

    /// What a variable's name stands for.
    pub(super) fn symbol(&mut self, instance: &mut Instance<'a>, scope: usize, name: &str) -> Result<Symbol> {
        if let Some((s, v)) = find_variable(instance.function, scope, name) {
            if v.home == Home::Shared {
                let offset = self.layout.shared(&instance.function.name, s, name);
                return offset.map(Symbol::Shared).ok_or_else(|| format!("`{name}` has no place"));
            }
            let key = (s, name.to_owned());
            let offset = match instance.frame.get(&key) {
                Some(offset) => *offset,
                None => {
                    let offset = self.layout.take_local(v.bytes, v.align);
                    instance.frame.insert(key, offset);
                    offset
                }
            };
            return Ok(if v.home == Home::Local { Symbol::Local(offset) } else { Symbol::Frame(offset) });
        }
        if let Some(offset) = instance.bindings.get(name) {
            return Ok(Symbol::Frame(*offset));
        }
        if instance.function.is_entry
            && let Some(p) = self.parameters.iter().find(|p| p.name == name)
        {
            return Ok(Symbol::Kernel(p.offset as u32));
        }
        match self.text.variables.iter().find(|v| v.name == name) {
            Some(v) if v.home == Home::Shared => {
                let offset = self.layout.shared("", 0, name);
                offset.map(Symbol::Shared).ok_or_else(|| format!("`{name}` has no place"))
            }
            Some(v) if v.is_extern => Err(format!("`{name}` is declared but not defined in this module")),
            Some(_) => Ok(Symbol::Global(name.to_owned())),
            None => Err(format!("`{name}` is not declared")),
        }
    }

    /// A row that holds a variable's address in its own space, plus an offset.
    fn address_of(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        name: &str,
        offset: i64,
        class: Class,
    ) -> Result<u32> {
        let value = match self.symbol(instance, s.scope, name)? {
            Symbol::Shared(at) | Symbol::Local(at) | Symbol::Frame(at) | Symbol::Kernel(at) => {
                i64::from(at) + offset
            }
            Symbol::Global(symbol) if class == Class::B64 => return Ok(self.address_row(&symbol, offset)),
            Symbol::Global(_) => return Err("addresses of module variables take 64 bits".to_owned()),
        };
        Ok(self.constant(value as u64, class))
    }

    /// A source row of a class: register, constant, special register, address.
    pub(super) fn source(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        operand: &Operand,
        class: Class,
    ) -> Result<u32> {
        if class == Class::Pred {
            return self.predicate(instance, s, operand);
        }
        match operand {
            Operand::Int(bits) => Ok(self.constant(*bits, class)),
            Operand::F32(bits) if class == Class::B64 => {
                Ok(self.constant(f64::from(f32::from_bits(*bits)).to_bits(), class))
            }
            Operand::F32(bits) => Ok(self.constant(u64::from(*bits), class)),
            Operand::F64(bits) if class == Class::B64 => Ok(self.constant(*bits, class)),
            Operand::F64(bits) => {
                Ok(self.constant(u64::from((f64::from_bits(*bits) as f32).to_bits()), class))
            }
            Operand::Name(name) => {
                if let Some(r) = self.lookup(instance, s.scope, name) {
                    let found = self.class_of(r);
                    if like(class).contains(&found) {
                        return Ok(r);
                    }
                    return Err(format!("`{name}` has the wrong size here"));
                }
                if name == WARP_SIZE {
                    return Ok(self.constant(32, class));
                }
                if let Some((number, special)) = moves::special_number(name) {
                    return self.special(number, special, class);
                }
                self.address_of(instance, s, name, 0, class)
            }
            Operand::Address(Some(name), offset, false) => self.address_of(instance, s, name, *offset, class),
            _ => Err("an operand of another form expected".to_owned()),
        }
    }

    /// Reads a special register into a temporary one.
    fn special(&mut self, number: i64, special: Class, class: Class) -> Result<u32> {
        let d = self.temporary(class);
        let wide = class == Class::B64;
        if wide && special != Class::B64 {
            return Err("this special register has 32 bits".to_owned());
        }
        let mut inst = Inst::new(if wide { moves::zero64() } else { moves::special() });
        inst.d = d;
        inst.imm = number;
        self.push(inst);
        Ok(d)
    }

    /// A source predicate; a negated one is negated into a temporary.
    pub(super) fn predicate(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        operand: &Operand,
    ) -> Result<u32> {
        match operand {
            Operand::Name(name) => self.register(instance, s.scope, name, &[Class::Pred]),
            Operand::Not(name) => {
                let a = self.register(instance, s.scope, name, &[Class::Pred])?;
                let mut inst = Inst::new(crate::exec::ops::compare::logic());
                inst.d = self.temporary(Class::Pred);
                inst.a = a;
                inst.flags = crate::exec::ops::compare::FLOAT;
                let d = inst.d;
                self.push(inst);
                Ok(d)
            }
            Operand::Int(value) => Ok(CONSTANT | u32::from(*value != 0)),
            _ => Err("a predicate expected".to_owned()),
        }
    }

    /// Address operand: base register (or none), whether it has 64 bits, offset. Names of variables become constants.
    pub(super) fn address(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        operand: &Operand,
    ) -> Result<(u32, bool, i64)> {
        let Operand::Address(base, offset, true) = operand else {
            return Err("an address in brackets expected".to_owned());
        };
        let Some(name) = base else { return Ok((NONE, true, *offset)) };
        if let Some(r) = self.lookup(instance, s.scope, name) {
            return match self.class_of(r) {
                Class::B64 => Ok((r, true, *offset)),
                Class::B32 => Ok((r, false, *offset)),
                _ => Err(format!("`{name}` cannot hold an address")),
            };
        }
        match self.symbol(instance, s.scope, name)? {
            Symbol::Shared(at) | Symbol::Local(at) | Symbol::Frame(at) | Symbol::Kernel(at) => {
                Ok((NONE, true, i64::from(at) + offset))
            }
            Symbol::Global(symbol) => Ok((self.address_row(&symbol, *offset), true, 0)),
        }
    }
}

/// Classes that share a kind of row.
pub(super) fn like(class: Class) -> &'static [Class] {
    match class {
        Class::Pred => &[Class::Pred],
        Class::B16 | Class::B32 => &[Class::B16, Class::B32],
        Class::B64 => &[Class::B64],
    }
}

/// Class of a type's registers.
pub(super) fn class_of_type(ty: &str) -> Result<Class> {
    Ok(match ty {
        "pred" => Class::Pred,
        "b8" | "u8" | "s8" | "b16" | "u16" | "s16" | "f16" | "bf16" => Class::B16,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => Class::B32,
        "b64" | "u64" | "s64" | "f64" => Class::B64,
        _ => return Err(format!("the type `.{ty}` is not supported here")),
    })
}
