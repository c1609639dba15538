//! Barriers, fences, and operations across a warp.

use super::operands::class_of_type;
use super::{Decoder, Instance, Opcode, Result};
use crate::code::{Control, Inst, Work};
use crate::counters::InstructionClass;
use crate::exec::Cx;
use crate::exec::ops::warp;
use crate::ptx::{Class, Operand, Statement};

impl<'a> Decoder<'a> {
    pub(super) fn collective(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
    ) -> Result<bool> {
        match op.base.as_str() {
            "bar" | "barrier" => return self.barrier(instance, s, op),
            "membar" | "fence" => self.fence(op),
            "shfl" => self.shuffle(instance, s, op)?,
            "vote" => self.vote(instance, s, op)?,
            "match" => self.matching(instance, s, op)?,
            "redux" => self.redux(instance, s, op)?,
            "activemask" => {
                self.class(InstructionClass::Warp, Work::None);
                op.flag("b32");
                let [d] = &s.operands[..] else { return Err("one operand expected".to_owned()) };
                let mut inst = Inst::new(warp::active());
                inst.d = self.target(instance, s, d, Class::B32)?;
                self.push(inst);
            }
            "elect" => {
                self.class(InstructionClass::Warp, Work::None);
                op.flag("sync");
                let [Operand::Pair(d, p), members] = &s.operands[..] else {
                    return Err("a register, a predicate and a mask expected".to_owned());
                };
                let mut inst = Inst::new(warp::elect());
                inst.d = self.target(instance, s, d, Class::B32)?;
                inst.d2 = self.target(instance, s, p, Class::Pred)?;
                inst.e = self.source(instance, s, members, Class::B32)?;
                self.push(inst);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn barrier(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<bool> {
        self.class(InstructionClass::Barrier, Work::None);
        op.flag("cta");
        op.flag("aligned");
        if op.flag("warp") {
            op.flag("sync");
            let [members] = &s.operands[..] else { return Err("a mask expected".to_owned()) };
            let mut inst = Inst::new(warp::sync());
            inst.e = self.source(instance, s, members, Class::B32)?;
            self.push(inst);
            return Ok(true);
        }
        let mut inst = Inst::new(Cx::nothing);
        let kind = op.one_of(&["sync", "arrive", "red"]);
        match kind.as_deref() {
            Some("sync") => inst.control = Control::Barrier,
            Some("arrive") => inst.control = Control::Arrive,
            Some(_) => return self.reduction(instance, s, op),
            None => return Ok(false),
        }
        let (number, threads) = match &s.operands[..] {
            [a] => (a, None),
            [a, b] => (a, Some(b)),
            _ => return Err("a barrier's number expected".to_owned()),
        };
        inst.a = self.source(instance, s, number, Class::B32)?;
        if let Some(threads) = threads {
            inst.b = self.source(instance, s, threads, Class::B32)?;
            self.code.partial_barriers = true;
        }
        self.push(inst);
        Ok(true)
    }

    /// `bar.red.popc.u32 d, a{, b}, {!}p` and `bar.red.and.pred p, a{, b}, {!}c`.
    fn reduction(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<bool> {
        let to_predicate = op.one_of(&["u32", "pred"]).as_deref() == Some("pred");
        let kind = op.one_of(&["popc", "and", "or"]).ok_or("`.popc`, `.and` or `.or` expected")?;
        let (d, number, threads, p) = match &s.operands[..] {
            [d, a, p] => (d, a, None, p),
            [d, a, b, p] => (d, a, Some(b), p),
            _ => return Err("another number of operands expected".to_owned()),
        };
        let mut inst = Inst::new(Cx::nothing);
        inst.control = Control::Barrier;
        inst.imm = match kind.as_str() {
            "and" => 1,
            "or" => 2,
            _ => 0,
        };
        inst.a = self.source(instance, s, number, Class::B32)?;
        if let Some(threads) = threads {
            inst.b = self.source(instance, s, threads, Class::B32)?;
        }
        inst.c = self.predicate(instance, s, p)?;
        self.push(inst);
        let mut read = Inst::new(warp::voted());
        if to_predicate {
            read.d2 = self.target(instance, s, d, Class::Pred)?;
        } else {
            read.d = self.target(instance, s, d, Class::B32)?;
        }
        self.class(InstructionClass::Move, Work::None);
        self.push(read);
        Ok(true)
    }

    fn fence(&mut self, op: &mut Opcode) {
        self.class(InstructionClass::Fence, Work::None);
        let within_block = op.has("cta");
        op.rest();
        let mut inst = Inst::new(warp::fence());
        inst.imm = i64::from(!within_block);
        self.push(inst);
    }

    fn shuffle(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Warp, Work::None);
        if !op.flag("sync") {
            return Err("shuffles without `.sync` are not supported".to_owned());
        }
        let mode = op.one_of(&["up", "down", "bfly", "idx"]).ok_or("a mode expected")?;
        op.flag("b32");
        let [d, a, b, c, members] = &s.operands[..] else { return Err("five operands expected".to_owned()) };
        let mut inst = Inst::new(warp::shuffle());
        inst.imm = match mode.as_str() {
            "up" => 0,
            "down" => 1,
            "bfly" => 2,
            _ => 3,
        };
        inst.a = self.source(instance, s, a, Class::B32)?;
        inst.b = self.source(instance, s, b, Class::B32)?;
        inst.c = self.source(instance, s, c, Class::B32)?;
        inst.e = self.source(instance, s, members, Class::B32)?;
        self.with_predicate(instance, s, d, &mut inst)?;
        self.push(inst);
        Ok(())
    }

    /// A result that may be `d|p`.
    fn with_predicate(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        d: &Operand,
        inst: &mut Inst,
    ) -> Result<()> {
        if let Operand::Pair(d, p) = d {
            inst.d = self.target(instance, s, d, Class::B32)?;
            inst.d2 = self.target(instance, s, p, Class::Pred)?;
        } else {
            inst.d = self.target(instance, s, d, Class::B32)?;
        }
        Ok(())
    }

    fn vote(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Warp, Work::None);
        if !op.flag("sync") {
            return Err("votes without `.sync` are not supported".to_owned());
        }
        let mode = op.one_of(&["all", "any", "uni", "ballot"]).ok_or("a mode expected")?;
        op.one_of(&["pred", "b32"]);
        let [d, p, members] = &s.operands[..] else { return Err("three operands expected".to_owned()) };
        let mut inst = Inst::new(warp::vote());
        inst.imm = match mode.as_str() {
            "all" => 0,
            "any" => 1,
            "uni" => 2,
            _ => 3,
        };
        inst.a = self.predicate(instance, s, p)?;
        inst.e = self.source(instance, s, members, Class::B32)?;
        inst.d = self.target(instance, s, d, if inst.imm == 3 { Class::B32 } else { Class::Pred })?;
        self.push(inst);
        Ok(())
    }

    fn matching(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Warp, Work::None);
        op.flag("sync");
        let all = op.one_of(&["any", "all"]).ok_or("`.any` or `.all` expected")? == "all";
        let class = class_of_type(&op.last()?)?;
        let [d, a, members] = &s.operands[..] else { return Err("three operands expected".to_owned()) };
        let mut inst = Inst::new(warp::matching());
        inst.imm = i64::from(all);
        inst.flags = u16::from(class == Class::B64);
        inst.a = self.source(instance, s, a, class)?;
        inst.e = self.source(instance, s, members, Class::B32)?;
        self.with_predicate(instance, s, d, &mut inst)?;
        self.push(inst);
        Ok(())
    }

    fn redux(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Warp, Work::None);
        op.flag("sync");
        let names = ["add", "min", "max", "and", "or", "xor"];
        let name = op.one_of(&names).ok_or("an operation expected")?;
        let ty = op.last()?;
        if !matches!(ty.as_str(), "u32" | "s32" | "b32") {
            return Err(format!("the type `.{ty}` is not supported here"));
        }
        let [d, a, members] = &s.operands[..] else { return Err("three operands expected".to_owned()) };
        let mut inst = Inst::new(warp::reduce());
        inst.imm = names.iter().position(|n| *n == name).unwrap_or(0) as i64;
        inst.flags = u16::from(ty == "s32");
        inst.a = self.source(instance, s, a, Class::B32)?;
        inst.e = self.source(instance, s, members, Class::B32)?;
        inst.d = self.target(instance, s, d, Class::B32)?;
        self.push(inst);
        Ok(())
    }
}
