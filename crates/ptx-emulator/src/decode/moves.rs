//! `mov`, `cvta`, `isspacep`.

use super::operands::class_of_type;
use super::{Decoder, Instance, Opcode, Result};
use crate::code::{Inst, NONE, Work};
use crate::counters::InstructionClass;
use crate::exec::ops::address::window_offset;
use crate::exec::ops::{compare, moves};
use crate::ptx::{Class, Operand, Statement};

impl<'a> Decoder<'a> {
    pub(super) fn moves(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
    ) -> Result<bool> {
        self.class(InstructionClass::Move, Work::None);
        match op.base.as_str() {
            "mov" => self.mov(instance, s, op)?,
            "cvta" => self.cvta(instance, s, op)?,
            "isspacep" => {
                let space = op.last()?;
                let window =
                    window_offset(&space).ok_or_else(|| format!("the space `.{space}` is not supported"))?;
                let [d, a] = two(s)?;
                let mut inst = Inst::new(crate::exec::ops::warp::is_space());
                inst.d = self.target(instance, s, d, Class::Pred)?;
                inst.a = self.source(instance, s, a, Class::B64)?;
                inst.imm = window as i64;
                inst.flags = u16::from(space == "const");
                self.push(inst);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mov(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        let ty = op.last()?;
        let class = class_of_type(&ty)?;
        let [d, a] = two(s)?;
        if let Operand::Vector(parts) = a {
            return self.pack(instance, s, class, d, parts);
        }
        if let Operand::Vector(parts) = d {
            let class_of_part = part_class(class, parts.len())?;
            let mut inst =
                Inst::new(if class == Class::B64 { moves::unpack::<u64>() } else { moves::unpack::<u32>() });
            inst.a = self.source(instance, s, a, class)?;
            inst.imm = if class_of_part == Class::B32 { 32 } else { 16 };
            let mut more = Vec::new();
            for p in parts {
                more.push(match p {
                    Operand::Sink => NONE,
                    p => self.target(instance, s, p, class_of_part)?,
                });
            }
            inst.more_defs = more.len() as u8;
            inst.more = more.into();
            self.push(inst);
            return Ok(());
        }
        if class == Class::Pred {
            let mut inst = Inst::new(compare::logic());
            inst.d = self.target(instance, s, d, class)?;
            inst.a = self.predicate(instance, s, a)?;
            self.push(inst);
            return Ok(());
        }
        let mut inst = Inst::new(moves::plain(class));
        // `mov.u32 %r, %tid.x` needs no temporary: the last instruction made reads it straight into the result.
        let before = self.code.insts.len();
        inst.a = self.source(instance, s, a, class)?;
        inst.d = self.target(instance, s, d, class)?;
        inst.is_copy = true;
        if self.code.insts.len() == before + 1 {
            self.code.insts[before].d = inst.d;
            return Ok(());
        }
        self.push(inst);
        Ok(())
    }

    fn pack(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        class: Class,
        d: &Operand,
        parts: &[Operand],
    ) -> Result<()> {
        let part = part_class(class, parts.len())?;
        let mut rows = [NONE; 4];
        for (row, p) in rows.iter_mut().zip(parts) {
            *row = self.source(instance, s, p, part)?;
        }
        let handler = match (class, parts.len()) {
            (Class::B64, 4) => moves::pack4(),
            _ => moves::pack(class),
        };
        let mut inst = Inst::new(handler);
        [inst.a, inst.b, inst.c, inst.e] = rows;
        inst.d = self.target(instance, s, d, class)?;
        self.push(inst);
        Ok(())
    }

    fn cvta(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        let to = op.flag("to");
        let ty = op.last()?;
        let class = class_of_type(&ty)?;
        let space = op.last()?;
        let window = window_offset(&space).ok_or_else(|| format!("the space `.{space}` is not supported"))?;
        let [d, a] = two(s)?;
        let wide = class == Class::B64;
        if !wide && !to {
            return Err("generic addresses take 64 bits".to_owned());
        }
        let mut inst = Inst::new(moves::offset(class));
        inst.a = self.source(instance, s, a, class)?;
        inst.d = self.target(instance, s, d, class)?;
        inst.imm = if to { (window as i64).wrapping_neg() } else { window as i64 };
        self.push(inst);
        Ok(())
    }
}

/// Exactly two operands.
pub(super) fn two(s: &Statement) -> Result<[&Operand; 2]> {
    match &s.operands[..] {
        [d, a] => Ok([d, a]),
        _ => Err("two operands expected".to_owned()),
    }
}

/// Class of the parts of a register that is put together of `count`.
fn part_class(class: Class, count: usize) -> Result<Class> {
    match (class, count) {
        (Class::B64, 2) => Ok(Class::B32),
        (Class::B64, 4) | (Class::B32, 2) => Ok(Class::B16),
        _ => Err("a vector of another length expected".to_owned()),
    }
}
