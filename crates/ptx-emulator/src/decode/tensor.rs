//! `mma`, `ldmatrix`, `stmatrix`.

use super::{Decoder, Instance, Opcode, Result};
use crate::code::{Inst, Traffic, Work};
use crate::counters::InstructionClass;
use crate::exec::ops::address::WIDE;
use crate::exec::ops::matrix;
use crate::exec::ops::mma::{self, Element, Shape};
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
        let saturates = op.flag("satfinite");
        // Of single bits the types are followed by what is done with them.
        let counts = op.flag("popc");
        let logic = if counts { op.one_of(&["and", "xor"]) } else { None };
        // C, B, A, D: the types stand in reverse order at the end.
        let (c, b, a, d) = (op.last()?, op.last()?, op.last()?, op.last()?);
        // The layouts stand before them.
        let (by_b, by_a) = (op.last()?, op.last()?);
        let unsupported = || format!("products `.{name}.{by_a}.{by_b}.{d}.{a}.{b}.{c}` are not supported");
        let layout = |name: &str| match name {
            "row" => Ok(false),
            "col" => Ok(true),
            _ => Err(unsupported()),
        };
        let columns = [layout(&by_a)?, layout(&by_b)?];
        let (Some(ea), Some(eb)) = (Element::named(&a), Element::named(&b)) else {
            return Err(unsupported());
        };
        use Element::{B1, Bf16, F16, F64, S4, S8, Tf32, U4, U8};
        let (m, k) = match (name.as_str(), ea) {
            ("m16n8k16", F16 | Bf16) | ("m16n8k16", S8 | U8) => (16, 16),
            ("m16n8k8", F16 | Bf16 | Tf32) => (16, 8),
            ("m16n8k4", Tf32) => (16, 4),
            ("m8n8k4", F16 | F64) => (8, 4),
            ("m8n8k16", S8 | U8) => (8, 16),
            ("m16n8k32", S8 | U8 | S4 | U4) => (16, 32),
            ("m8n8k32", S4 | U4) => (8, 32),
            ("m16n8k64", S4 | U4) => (16, 64),
            ("m8n8k128", B1) => (8, 128),
            ("m16n8k128", B1) => (16, 128),
            ("m16n8k256", B1) => (16, 256),
            _ => return Err(unsupported()),
        };
        let quads = ea == F16 && k == 4;
        let float = |ty: &str| ty == "f16" || ty == "f32";
        let sums = match ea {
            // The four small products may widen their sums.
            F16 if quads => float(&c) && float(&d) && (c == d || c == "f16"),
            F16 => c == d && float(&c),
            Bf16 | Tf32 => c == "f32" && d == "f32",
            F64 => c == "f64" && d == "f64",
            S8 | U8 | S4 | U4 | B1 => c == "s32" && d == "s32",
        };
        let alike = match (ea, eb) {
            (S8 | U8, S8 | U8) | (S4 | U4, S4 | U4) => true,
            _ => ea == eb,
        };
        let by_rows = columns == [false, true];
        if !sums
            || !alike
            || (saturates && (!ea.is_integer() || ea == B1))
            || counts != (ea == B1)
            || !(by_rows || quads)
        {
            return Err(unsupported());
        }
        let shape = Shape {
            m,
            k,
            a: ea,
            b: eb,
            narrow: [c == "f16", d == "f16"],
            saturates,
            xor: logic.as_deref() == Some("xor"),
            columns,
        };
        if counts && logic.is_none() {
            return Err("`.and.popc` or `.xor.popc` expected".to_owned());
        }
        let operations = shape.operations();
        let (work, handler, class) = match ea {
            F16 if quads => (Work::TensorF16(operations), mma::mma_quads(), Class::B32),
            F16 | Bf16 => (Work::TensorF16(operations), mma::mma(), Class::B32),
            Tf32 => (Work::TensorTf32(operations), mma::mma(), Class::B32),
            F64 => (Work::F64(operations / 32), mma::mma_double(), Class::B64),
            _ => (Work::TensorInt(operations), mma::mma_integer(), Class::B32),
        };
        self.class(InstructionClass::Tensor, work);
        let [na, nb, nc, nd] = shape.registers();
        let [vd, va, vb, vc] = &s.operands[..] else { return Err("four operands expected".to_owned()) };
        let mut more = Vec::new();
        for v in parts(vd, nd)? {
            more.push(self.target(instance, s, v, class)?);
        }
        for (vector, count) in [(va, na), (vb, nb), (vc, nc)] {
            for v in parts(vector, count)? {
                more.push(self.source(instance, s, v, class)?);
            }
        }
        let mut inst = Inst::new(handler);
        inst.imm = shape.pack();
        inst.more_defs = nd as u8;
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
