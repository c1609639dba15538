//! Arithmetic, comparisons and conversions.

use super::operands::class_of_type;
use super::{Decoder, Instance, Opcode, Result};
use crate::code::{Handler, Inst, Work};
use crate::counters::InstructionClass;
use crate::exec::ops::convert::{Kind, Spec};
use crate::exec::ops::{carry, compare, convert, float, half, integer, special};
use crate::ptx::{Class, Operand, Statement};
use crate::soft::Rounding;

impl<'a> Decoder<'a> {
    pub(super) fn arithmetic(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        op: &mut Opcode,
    ) -> Result<bool> {
        match op.base.as_str() {
            "setp" | "set" => self.compare(instance, s, op)?,
            "selp" | "slct" => self.select(instance, s, op)?,
            "testp" => self.testp(instance, s, op)?,
            "cvt" => self.convert(instance, s, op)?,
            "szext" => return Ok(false),
            "addc" | "subc" | "madc" => self.carry(instance, s, op)?,
            "add" | "sub" | "mad" if op.has("cc") => self.carry(instance, s, op)?,
            _ => {
                // Whether it is arithmetic shows only when its modifiers are taken: those of others stay as they are.
                let mut tried = op.clone();
                let ty = tried.last().unwrap_or_default();
                if let Some(inst) = self.family(&mut tried, &ty)? {
                    *op = tried;
                    self.operands(instance, s, inst, &ty, op)?;
                    return Ok(true);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The handler of an arithmetic instruction, if it is one, and its note.
    fn family(&mut self, op: &mut Opcode, ty: &str) -> Result<Option<Inst>> {
        let base = op.base.clone();
        if ty == "pred" {
            return Ok(self.predicate_logic(&base));
        }
        let found = match ty {
            "f32" | "f64" => self.float(op, &base, ty),
            "f16" | "f16x2" | "bf16" | "bf16x2" => self.narrow(op, &base, ty),
            _ => self.integer(op, &base, ty),
        };
        let Some((handler, imm)) = found else { return Ok(None) };
        let mut inst = Inst::new(handler);
        inst.imm = imm;
        Ok(Some(inst))
    }

    fn predicate_logic(&mut self, base: &str) -> Option<Inst> {
        self.class(InstructionClass::Compare, Work::None);
        let mut inst = Inst::new(compare::logic());
        inst.flags = match base {
            "and" => compare::AND,
            "or" => compare::OR,
            "xor" => compare::XOR,
            "not" => compare::FLOAT,
            _ => return None,
        };
        Some(inst)
    }

    fn float(&mut self, op: &mut Opcode, base: &str, ty: &str) -> Option<(Handler, i64)> {
        let class = if ty == "f32" { InstructionClass::F32 } else { InstructionClass::F64 };
        let work = |n: u32| if ty == "f32" { Work::F32(n) } else { Work::F64(n) };
        let approximate = op.flag("approx");
        let full = op.flag("full");
        let rounding = op.rounding().map_or(Rounding::Nearest, |r| r.0);
        let mut imm = rounding as i64;
        for (flag, bit) in [("ftz", float::FTZ), ("sat", float::SAT), ("NaN", float::NAN)] {
            if op.flag(flag) {
                imm |= bit;
            }
        }
        if approximate || full || matches!(base, "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt") {
            self.class(InstructionClass::Special, work(1));
            let handler =
                if base == "div" && ty == "f32" { Some(special::divide()) } else { special::unary(base, ty) };
            return handler.map(|h| (h, imm));
        }
        let (n, special) = match base {
            "fma" | "mad" => (2, false),
            "add" | "sub" | "mul" => (1, false),
            "div" | "rcp" | "sqrt" => (1, true),
            _ => (0, false),
        };
        self.class(if special && ty == "f32" { InstructionClass::Special } else { class }, work(n));
        let handler = match base {
            "fma" | "mad" => float::ternary(ty, imm),
            _ => float::unary(base, ty, imm).or_else(|| float::binary(base, ty, imm)),
        };
        handler.map(|h| (h, imm))
    }

    fn narrow(&mut self, op: &mut Opcode, base: &str, ty: &str) -> Option<(Handler, i64)> {
        let approximate = op.flag("approx");
        op.flag("rn");
        let mut imm = half::format(ty);
        for (flag, bit) in [("ftz", half::FTZ), ("sat", half::SAT), ("NaN", half::NAN), ("relu", half::RELU)]
        {
            if op.flag(flag) {
                imm |= bit;
            }
        }
        let each = if ty.ends_with("x2") { 2 } else { 1 };
        let n = match base {
            "fma" => 2,
            "add" | "sub" | "mul" => 1,
            _ => 0,
        };
        self.class(
            if approximate { InstructionClass::Special } else { InstructionClass::F16 },
            Work::F16(n * each),
        );
        let handler = if base == "fma" {
            Some(half::ternary())
        } else {
            half::unary(base).or_else(|| half::binary(base))
        };
        handler.map(|h| (h, imm))
    }

    fn integer(&mut self, op: &mut Opcode, base: &str, ty: &str) -> Option<(Handler, i64)> {
        self.class(InstructionClass::Integer, Work::None);
        let mut name = base.to_owned();
        let mut imm = 0;
        match base {
            "mul" | "mad" | "mul24" | "mad24" => {
                if let Some(part) = op.one_of(&["lo", "hi", "wide"]) {
                    name = format!("{base}.{part}");
                }
                if base.starts_with("mad") && op.flag("sat") {
                    name += ".sat";
                }
            }
            "add" | "sub" if op.flag("sat") => name = format!("{base}.sat"),
            "bfind" if op.flag("shiftamt") => name = format!("{base}.shiftamt"),
            "bmsk" => {
                let mode = op.one_of(&["clamp", "wrap"])?;
                name = format!("{base}.{mode}");
            }
            "shf" => {
                let (side, mode) = (op.one_of(&["l", "r"])?, op.one_of(&["clamp", "wrap"])?);
                name = format!("{base}.{side}.{mode}");
            }
            "prmt" => {
                // `prmt.b32.f4e`: the mode follows the type.
                let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
                if let Some(at) = modes.iter().position(|m| *m == ty) {
                    imm = at as i64 + 1;
                    op.flag("b32");
                    return integer::ternary("prmt", "b32").map(|h| (h, imm));
                }
            }
            "dp4a" | "dp2a" => {
                // `dp4a.atype.btype`: 1 for a signed first, 2 for a signed second; `dp2a.hi` 4.
                let first = op.one_of(&["u32", "s32"])?;
                imm = i64::from(first == "s32") | i64::from(ty == "s32") << 1;
                if base == "dp2a" && op.one_of(&["lo", "hi"])? == "hi" {
                    imm |= 4;
                }
            }
            _ => {}
        }
        let handler = match base {
            "bfi" => integer::insert(ty),
            _ => integer::unary(&name, ty)
                .or_else(|| integer::binary(&name, ty))
                .or_else(|| integer::ternary(&name, ty)),
        };
        handler.map(|h| (h, imm))
    }

    /// `add.cc`, `addc` and their kin: sums with the carry that goes from one instruction to the next.
    fn carry(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Integer, Work::None);
        let ty = op.last()?;
        let class = class_of_type(&ty)?;
        if !matches!(ty.as_str(), "u32" | "s32" | "u64" | "s64") {
            return Err(format!("the type `.{ty}` is not supported here"));
        }
        let mut inst = Inst::new(carry::sum());
        inst.flags = match op.base.clone().as_str() {
            "add" | "addc" => carry::ADD,
            "sub" | "subc" => carry::SUBTRACT,
            _ if op.flag("lo") => carry::LOW,
            _ if op.flag("hi") => carry::HIGH,
            _ => return Err("`.lo` or `.hi` expected".to_owned()),
        };
        inst.flags |= if class == Class::B64 { carry::LONG } else { 0 };
        inst.flags |= if ty.starts_with('s') { carry::SIGNED } else { 0 };
        let flag = match self.carry {
            Some(flag) => flag,
            None => {
                let flag = self.temporary(Class::Pred);
                "CC.CF".clone_into(&mut self.code.names[flag as usize]);
                *self.carry.insert(flag)
            }
        };
        if op.base.ends_with('c') {
            inst.e = flag;
        }
        if op.flag("cc") {
            inst.d2 = flag;
        }
        let (d, sources) = s.operands.split_first().ok_or("operands are missing")?;
        let wanted = if op.base.starts_with("mad") { 3 } else { 2 };
        if sources.len() != wanted {
            return Err(format!("{} operands expected", wanted + 1));
        }
        inst.a = self.source(instance, s, &sources[0], class)?;
        inst.b = self.source(instance, s, &sources[1], class)?;
        if let Some(c) = sources.get(2) {
            inst.c = self.source(instance, s, c, class)?;
        }
        inst.d = self.target(instance, s, d, class)?;
        self.push(inst);
        Ok(())
    }

    /// Results and sources of an arithmetic instruction.
    fn operands(
        &mut self,
        instance: &mut Instance<'a>,
        s: &Statement,
        mut inst: Inst,
        ty: &str,
        op: &Opcode,
    ) -> Result<()> {
        let ty = if op.base == "prmt" { "b32" } else { ty };
        let main = class_of_type(ty)?;
        let wide = s.opcode.contains(".wide");
        let widened = if main == Class::B64 { Class::B64 } else { wider(main) };
        let base = op.base.as_str();
        let d = match base {
            "popc" | "clz" | "bfind" => Class::B32,
            _ if wide => widened,
            _ => main,
        };
        let c3 = if wide { widened } else { main };
        let classes: [Class; 4] = match base {
            "shl" | "shr" => [main, Class::B32, main, main],
            "bfe" => [main, Class::B32, Class::B32, main],
            "bfi" => [main, main, Class::B32, Class::B32],
            _ => [main, main, c3, main],
        };
        let (target, sources) = s.operands.split_first().ok_or("operands are missing")?;
        let wanted = match base {
            "neg" | "abs" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" | "rcp" | "sqrt" | "rsqrt"
            | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
            "fma" | "mad" | "mad24" | "sad" | "prmt" | "dp4a" | "dp2a" | "bfe" | "shf" => 3,
            "lop3" | "bfi" => 4,
            _ => 2,
        };
        if sources.len() != wanted {
            return Err(format!("{} operands expected", wanted + 1));
        }
        let sources = if base == "lop3" {
            let Operand::Int(table) = sources[3] else { return Err("a table of logic expected".to_owned()) };
            inst.imm = (table & 255) as i64;
            &sources[..3]
        } else {
            sources
        };
        let mut rows = [crate::code::NONE; 4];
        for (k, source) in sources.iter().enumerate() {
            rows[k] = self.source(instance, s, source, classes[k])?;
        }
        [inst.a, inst.b, inst.c, inst.e] = rows;
        inst.d = self.target(instance, s, target, d)?;
        self.push(inst);
        Ok(())
    }

    fn compare(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Compare, Work::None);
        let is_set = op.base == "set";
        let ty = op.last()?;
        let result = if is_set { op.last()? } else { String::new() };
        let ftz = op.flag("ftz");
        let cmp = op.first()?;
        let how = match op.one_of(&["and", "or", "xor"]).as_deref() {
            Some("and") => compare::AND,
            Some("or") => compare::OR,
            Some(_) => compare::XOR,
            None => 0,
        };
        let is_pair = ty.ends_with("x2");
        if is_pair && is_set {
            return Err(format!("the comparison `.{cmp}.{ty}` is not supported"));
        }
        let of = |ty: &str| compare::relation(&cmp, ty, ftz);
        let imm = of(ty.trim_end_matches("x2"))
            .ok_or_else(|| format!("the comparison `.{cmp}.{ty}` is not supported"))?;
        let handler = match (is_set, is_pair) {
            (true, _) => compare::set(),
            (_, true) => compare::setp_pair(),
            _ => compare::fast(&cmp, &ty, ftz).unwrap_or_else(compare::setp_any),
        };
        let class = class_of_type(&ty)?;
        let mut inst = Inst::new(handler);
        inst.flags = how;
        inst.imm = imm;
        let (d, sources) = s.operands.split_first().ok_or("operands are missing")?;
        if sources.len() != if how == 0 { 2 } else { 3 } {
            return Err("another number of operands expected".to_owned());
        }
        inst.a = self.source(instance, s, &sources[0], class)?;
        inst.b = self.source(instance, s, &sources[1], class)?;
        if let Some(c) = sources.get(2) {
            inst.c = self.predicate(instance, s, c)?;
        }
        if is_set {
            match result.as_str() {
                "f32" => inst.flags |= compare::FLOAT,
                "u32" | "s32" => {}
                _ => return Err(format!("the result type `.{result}` is not supported")),
            }
            inst.d = self.target(instance, s, d, Class::B32)?;
        } else {
            match d {
                Operand::Pair(p, q) => {
                    inst.d = self.target(instance, s, p, Class::Pred)?;
                    inst.d2 = self.target(instance, s, q, Class::Pred)?;
                }
                _ if is_pair => return Err("two predicates expected".to_owned()),
                p => inst.d = self.target(instance, s, p, Class::Pred)?,
            }
        }
        self.push(inst);
        Ok(())
    }

    fn select(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Compare, Work::None);
        let mut ty = op.last()?;
        let is_slct = op.base == "slct";
        let by = if is_slct { std::mem::replace(&mut ty, op.last()?) } else { String::new() };
        op.flag("ftz");
        let class = class_of_type(&ty)?;
        let [d, a, b, c] = &s.operands[..] else { return Err("four operands expected".to_owned()) };
        let handler = match (is_slct, class) {
            (false, Class::B64) => compare::selp::<u64>(),
            (false, _) => compare::selp::<u32>(),
            (true, Class::B64) => compare::slct::<u64>(),
            (true, _) => compare::slct::<u32>(),
        };
        let mut inst = Inst::new(handler);
        inst.a = self.source(instance, s, a, class)?;
        inst.b = self.source(instance, s, b, class)?;
        inst.c =
            if is_slct { self.source(instance, s, c, Class::B32)? } else { self.predicate(instance, s, c)? };
        if by == "f32" {
            inst.flags = compare::FLOAT;
        }
        inst.d = self.target(instance, s, d, class)?;
        self.push(inst);
        Ok(())
    }

    fn testp(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Compare, Work::None);
        let ty = op.last()?;
        let name = op.first()?;
        let names = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let number =
            names.iter().position(|n| *n == name).ok_or_else(|| format!("`.{name}` is not supported"))?;
        let [d, a] = super::moves::two(s)?;
        let mut inst = Inst::new(compare::testp());
        inst.imm = number as i64;
        inst.flags = u16::from(ty == "f64");
        inst.a = self.source(instance, s, a, class_of_type(&ty)?)?;
        inst.d = self.target(instance, s, d, Class::Pred)?;
        self.push(inst);
        Ok(())
    }

    fn convert(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<()> {
        self.class(InstructionClass::Conversion, Work::None);
        let from_name = op.last()?;
        let to_name = op.last()?;
        let rounding = op.rounding();
        let (ftz, sat, relu) = (op.flag("ftz"), op.flag("sat"), op.flag("relu"));
        // `.satfinite` saturates to the largest finite value; formats that need it are not supported.
        let unknown = |name: &str| format!("conversions of `.{name}` are not supported");
        let from = Kind::named(&from_name).ok_or_else(|| unknown(&from_name))?;
        let two = matches!(to_name.as_str(), "f16x2" | "bf16x2");
        let to = Kind::named(to_name.trim_end_matches("x2")).ok_or_else(|| unknown(&to_name))?;
        let (rounding, integral) = rounding.unwrap_or((Rounding::Nearest, false));
        let spec = Spec { to, from, rounding, integral: integral && to.is_float(), ftz, sat, relu };
        if two {
            let [d, a, b] = &s.operands[..] else { return Err("three operands expected".to_owned()) };
            let mut inst = Inst::new(convert::packed(spec));
            inst.imm = spec.pack();
            inst.a = self.source(instance, s, a, Class::B32)?;
            inst.b = self.source(instance, s, b, Class::B32)?;
            inst.d = self.target(instance, s, d, Class::B32)?;
            self.push(inst);
            return Ok(());
        }
        let [d, a] = super::moves::two(s)?;
        let class = class_of_type(&from_name)?;
        let mut source = match a {
            // Sources may be wider than the type: their low bits count.
            Operand::Name(_) if class != Class::B64 => {
                let wide = self.source(instance, s, a, Class::B64);
                match wide {
                    Ok(row) if row & crate::code::CONSTANT == 0 && self.class_of(row) == Class::B64 => {
                        let low = Spec { to: Kind::Unsigned(32), from: Kind::Unsigned(64), ..plain() };
                        let mut inst = Inst::new(convert::single(low));
                        inst.imm = low.pack();
                        inst.a = row;
                        inst.d = self.temporary(Class::B32);
                        let low = inst.d;
                        self.push(inst);
                        low
                    }
                    _ => self.source(instance, s, a, class)?,
                }
            }
            a => self.source(instance, s, a, class)?,
        };
        // An 8-bit source in a wider register: only its low byte counts; the handlers see to that. A 16-bit float likewise.
        if matches!(from, Kind::F16 | Kind::Bf16)
            && source & crate::code::CONSTANT == 0
            && self.class_of(source) == Class::B32
        {
            let low = Spec { to: Kind::Unsigned(16), from: Kind::Unsigned(16), ..plain() };
            let mut inst = Inst::new(convert::single(low));
            inst.a = source;
            inst.d = self.temporary(Class::B16);
            source = inst.d;
            self.push(inst);
        }
        let mut inst = Inst::new(convert::single(spec));
        inst.imm = spec.pack();
        inst.a = source;
        let d = self.any_target(instance, s, d)?;
        let narrow = to.bits() < 64;
        if narrow && self.class_of(d) == Class::B64 {
            // The result is extended to the register by the type's sign.
            inst.d = self.temporary(Class::B32);
            let signed = matches!(to, Kind::Signed(_));
            let from = match to {
                Kind::Signed(n) => Kind::Signed(n),
                other => Kind::Unsigned(other.bits()),
            };
            let widen =
                Spec { to: if signed { Kind::Signed(64) } else { Kind::Unsigned(64) }, from, ..plain() };
            let mut second = Inst::new(convert::single(widen));
            second.imm = widen.pack();
            second.a = inst.d;
            second.d = d;
            self.push(inst);
            self.push(second);
            return Ok(());
        }
        if !narrow && self.class_of(d) != Class::B64 {
            return Err("the result register is too small".to_owned());
        }
        inst.d = d;
        self.push(inst);
        // An 8- or 16-bit signed result in a 32-bit register is sign-extended.
        if let Kind::Signed(n) = to
            && n < 32
            && self.class_of(d) == Class::B32
        {
            let extend = Spec { to: Kind::Signed(32), from: Kind::Signed(n), ..plain() };
            let mut inst = Inst::new(convert::single(extend));
            inst.imm = extend.pack();
            inst.a = d;
            inst.d = d;
            self.push(inst);
        }
        Ok(())
    }
}

fn plain() -> Spec {
    Spec {
        to: Kind::Unsigned(32),
        from: Kind::Unsigned(32),
        rounding: Rounding::Nearest,
        integral: false,
        ftz: false,
        sat: false,
        relu: false,
    }
}

fn wider(class: Class) -> Class {
    if class == Class::B16 { Class::B32 } else { Class::B64 }
}
