//! `mma`, `ldmatrix`, `stmatrix`.

use super::{Decoder, Instance, Opcode, Result};
use crate::code::{Inst, Traffic, Work};
use crate::counters::InstructionClass;
use crate::exec::ops::address::WIDE;
use crate::exec::ops::matrix::{self, Element, Shape};
use crate::ptx::{Class, Operand, Statement};

impl<'a> Decoder<'a> {
    pub(super) fn tensor(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
    ) -> Result<bool> {
        match op.base.as_str() {
            "mma" => self.mma(instance, s, op)?,
            "ldmatrix" => self.matrix(instance, s, op, false)?,
            "stmatrix" => self.matrix(instance, s, op, true)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mma(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        op.flag("sync");
        op.flag("aligned");
        let name = op.first()?;
        // C, B, A, D: the types stand in reverse order at the end.
        let (c, b, a, d) = (op.last()?, op.last()?, op.last()?, op.last()?);
        if !(op.flag("row") && op.flag("col")) {
            return Err("only `.row.col` products are supported".to_owned());
        }
        let saturates = op.flag("satfinite");
        let unsupported = || format!("products `.{name}.{d}.{a}.{b}.{c}` are not supported");
        let element = |ty: &str| match ty {
            "f16" => Some(Element::F16),
            "bf16" => Some(Element::Bf16),
            "tf32" => Some(Element::Tf32),
            "f64" => Some(Element::F64),
            "s8" => Some(Element::S8),
            "u8" => Some(Element::U8),
            _ => None,
        };
        let (Some(ea), Some(eb)) = (element(&a), element(&b)) else { return Err(unsupported()) };
        let integer = |e: Element| matches!(e, Element::S8 | Element::U8);
        let (m, k) = match (name.as_str(), ea) {
            ("m16n8k16", Element::F16 | Element::Bf16) => (16, 16),
            ("m16n8k8", Element::F16 | Element::Bf16 | Element::Tf32) => (16, 8),
            ("m16n8k4", Element::Tf32) => (16, 4),
            ("m8n8k4", Element::F64) => (8, 4),
            ("m8n8k16", Element::S8 | Element::U8) => (8, 16),
            ("m16n8k16", Element::S8 | Element::U8) => (16, 16),
            ("m16n8k32", Element::S8 | Element::U8) => (16, 32),
            _ => return Err(unsupported()),
        };
        let narrow = c == "f16";
        let sums = match ea {
            Element::F16 => c == d && (c == "f16" || c == "f32"),
            Element::Bf16 | Element::Tf32 => c == "f32" && d == "f32",
            Element::F64 => c == "f64" && d == "f64",
            Element::S8 | Element::U8 => c == "s32" && d == "s32",
        };
        if !sums || (ea != eb && !(integer(ea) && integer(eb))) || (saturates && !integer(ea)) {
            return Err(unsupported());
        }
        let shape = Shape { m, k, a: ea, b: eb, narrow, saturates };
        let flops = (2 * m * 8 * k) as u32;
        let (work, handler, class) = match ea {
            Element::F16 | Element::Bf16 => (Work::TensorF16(flops), matrix::mma(), Class::B32),
            Element::Tf32 => (Work::TensorTf32(flops), matrix::mma(), Class::B32),
            Element::F64 => (Work::F64(flops / 32), matrix::mma_double(), Class::B64),
            Element::S8 | Element::U8 => (Work::TensorInt(flops), matrix::mma_integer(), Class::B32),
        };
        self.class(InstructionClass::Tensor, work);
        let (na, nb, nc) = shape.registers();
        let [vd, va, vb, vc] = &s.operands[..] else { return Err("four operands expected".to_owned()) };
        let mut more = Vec::new();
        for v in parts(vd, nc)? {
            more.push(self.target(instance, s, v, class)?);
        }
        for (vector, count) in [(va, na), (vb, nb), (vc, nc)] {
            for v in parts(vector, count)? {
                more.push(self.source(instance, s, v, class)?);
            }
        }
        let mut inst = Inst::new(handler);
        inst.imm = shape.pack();
        inst.more_defs = nc as u8;
        inst.more = more.into();
        self.push(inst);
        Ok(())
    }

    fn matrix(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
        is_store: bool,
    ) -> Result<()> {
        let class = if is_store { InstructionClass::SharedStore } else { InstructionClass::SharedLoad };
        self.class(class, Work::None);
        self.traffic(if is_store { Traffic::Store } else { Traffic::Load });
        for fixed in ["sync", "aligned", "m8n8", "b16"] {
            if !op.flag(fixed) {
                return Err(format!("`.{fixed}` expected"));
            }
        }
        op.one_of(&["shared", "shared::cta"]);
        let count = match op.one_of(&["x1", "x2", "x4"]).as_deref() {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err("`.x1`, `.x2` or `.x4` expected".to_owned()),
        };
        let [first, second] = super::moves::two(s)?;
        let (address, vector) = if is_store { (first, second) } else { (second, first) };
        let (base, wide, offset) = self.address(instance, s, address)?;
        let mut more = Vec::new();
        for v in parts(vector, count)? {
            more.push(if is_store {
                self.source(instance, s, v, Class::B32)?
            } else {
                self.target(instance, s, v, Class::B32)?
            });
        }
        let mut inst = Inst::new(if is_store { matrix::store_matrix() } else { matrix::load_matrix() });
        inst.flags = if wide { WIDE } else { 0 } | if op.flag("trans") { matrix::TRANSPOSED } else { 0 };
        inst.a = base;
        inst.imm = offset;
        inst.lanes = count as u8;
        inst.more_defs = if is_store { 0 } else { count as u8 };
        inst.more = more.into();
        self.push(inst);
        Ok(())
    }
}

/// The parts of a vector of a known length; a single operand is a vector of one.
fn parts(operand: &Operand, count: usize) -> Result<Vec<&Operand>> {
    let all: Vec<&Operand> = match operand {
        Operand::Vector(all) => all.iter().collect(),
        one => vec![one],
    };
    if all.len() == count { Ok(all) } else { Err(format!("a vector of {count} registers expected")) }
}
