//! From statements to code: names become rows, addresses and labels, calls are expanded in place, and each instruction
//! gets its handler. Whatever is not understood is an error here, before anything runs.

mod access;
mod arithmetic;
mod collective;
mod layout;
mod moves;
mod opcode;
mod operands;
mod tensor;

use std::collections::HashMap;

use crate::code::{Code, Control, Inst, NEGATED, Note, Traffic, Work};
use crate::counters::InstructionClass;
use crate::error::ParseError;
use crate::exec::Cx;
use crate::module::{KernelInfo, ModuleData, Parameter, Registers, Relocation, Variable};
use crate::ptx::{Class, Declared, Function, Home, Operand, Statement, Text};

pub(crate) use opcode::Opcode;

/// Functions called from functions, at most this deep.
const DEEPEST: usize = 32;
/// Instructions of one kernel after expansion, at most.
const LONGEST: usize = 1 << 20;

/// Local memory of a thread in bytes, at most (CUDA C++ Programming Guide, "Technical Specifications").
const LARGEST_LOCAL: u32 = 512 << 10;

/// What is wrong with an instruction; its place is added by the caller.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Decodes all kernels of a module.
pub(crate) fn module(text: &Text, name: &str) -> std::result::Result<ModuleData, ParseError> {
    let mut out = ModuleData { name: name.to_owned(), ..ModuleData::default() };
    for v in text.variables.iter().filter(|v| matches!(v.home, Home::Global | Home::Const) && !v.is_extern) {
        let relocations = v.relocations.iter();
        let relocations = relocations
            .map(|(offset, symbol, addend)| Relocation {
                offset: *offset,
                symbol: symbol.clone(),
                addend: *addend,
            })
            .collect();
        out.variables.push(Variable {
            name: v.name.clone(),
            bytes: v.bytes,
            data: v.data.clone(),
            relocations,
        });
    }
    for function in text.functions.iter().filter(|f| f.is_entry && f.has_body) {
        let mut decoder = Decoder::new(text, function);
        let (info, code) = decoder.kernel(function).map_err(|f| ParseError {
            file: name.to_owned(),
            line: f.0.place.line,
            column: f.0.place.column,
            message: f.1,
            text: f.0.text.clone(),
        })?;
        out.kernels.push(info);
        out.codes.push(code);
    }
    Ok(out)
}

/// A fault and its statement.
type Fault = Box<(Statement, String)>;

/// One expansion of a function.
pub(crate) struct Instance<'a> {
    function: &'a Function,
    registers: HashMap<(usize, String), u32>,
    /// Parameters and return values: offset in local memory; `None` in kernels, whose parameters are the launch's.
    bindings: HashMap<String, u32>,
    /// Variables of scopes: offset in local memory.
    frame: HashMap<(usize, String), u32>,
    /// Instruction that each statement starts at.
    starts: Vec<u32>,
    /// Branches to be directed: instruction, statement.
    jumps: Vec<(usize, usize)>,
    /// Jump tables to be directed: table, statements.
    tables: Vec<(usize, Vec<usize>)>,
    /// `ret` of an expanded function: instructions that go to its end.
    returns: Vec<usize>,
}

/// State while a kernel is decoded.
pub(crate) struct Decoder<'a> {
    text: &'a Text,
    code: Code,
    constants: HashMap<(u64, bool), u32>,
    symbols: HashMap<(String, u64), u32>,
    layout: layout::Layout,
    parameters: Vec<Parameter>,
    stack: Vec<String>,
    /// The carry flag, of kernels that use it.
    carry: Option<u32>,
    /// What the note of the instructions being decoded says.
    note: Note,
}

impl<'a> Decoder<'a> {
    fn new(text: &'a Text, function: &'a Function) -> Self {
        Self {
            text,
            code: Code { files: text.files.clone(), shared_grain: 16, global_grain: 16, ..Code::default() },
            constants: HashMap::new(),
            symbols: HashMap::new(),
            layout: layout::Layout::new(text, function),
            parameters: layout::parameters(function),
            stack: Vec::new(),
            carry: None,
            note: empty_note(),
        }
    }

    fn kernel(&mut self, function: &'a Function) -> std::result::Result<(KernelInfo, Code), Fault> {
        let mut instance = Self::instance(function, HashMap::new());
        self.body(&mut instance)?;
        let mut exit = Inst::new(Cx::nothing);
        exit.control = Control::Exit;
        self.note = Note {
            class: InstructionClass::Control,
            text: "end of the kernel".to_owned(),
            ..self.note.clone()
        };
        self.push(exit);
        if self.layout.local > LARGEST_LOCAL || self.layout.natural_shared == u32::MAX {
            let place =
                Statement { place: function.place, ..function.body.first().cloned().unwrap_or_default() };
            return Err(Box::new((place, "the kernel's variables exceed what a GPU has".to_owned())));
        }
        self.finish();
        let code = std::mem::take(&mut self.code);
        let info = KernelInfo {
            name: function.name.clone(),
            ptx_line: function.place.line,
            parameter_bytes: self.parameters.last().map_or(0, |p| p.offset + p.size),
            parameters: std::mem::take(&mut self.parameters),
            shared_bytes: self.layout.natural_shared,
            uses_dynamic_shared: self.layout.dynamic_used,
            local_bytes: code.local_bytes,
            registers: declared_registers(function),
            instructions: code.insts.len(),
            max_threads: function.max_threads,
            required_threads: function.required_threads,
            min_blocks: function.min_blocks,
            max_registers: function.max_registers,
            target: self.text.target.clone(),
            ptx_version: self.text.version,
        };
        Ok((info, code))
    }

    fn instance(function: &'a Function, bindings: HashMap<String, u32>) -> Instance<'a> {
        Instance {
            function,
            registers: HashMap::new(),
            bindings,
            frame: HashMap::new(),
            starts: Vec::new(),
            jumps: Vec::new(),
            tables: Vec::new(),
            returns: Vec::new(),
        }
    }

    /// Decodes a function's statements in place.
    fn body(&mut self, instance: &mut Instance<'a>) -> std::result::Result<(), Fault> {
        let function = instance.function;
        self.stack.push(function.name.clone());
        for statement in &function.body {
            instance.starts.push(self.code.insts.len() as u32);
            if self.code.insts.len() > LONGEST {
                return Err(Box::new((statement.clone(), "the kernel is too long".to_owned())));
            }
            self.note = Note {
                ptx_line: statement.place.line,
                source: statement.source,
                text: statement.text.clone(),
                ..empty_note()
            };
            let first = self.code.insts.len();
            if statement.opcode == "call" || statement.opcode == "call.uni" {
                self.call(instance, statement)?;
            } else {
                self.statement(instance, statement).map_err(|e| Box::new((statement.clone(), e)))?;
            }
            self.guard(instance, statement, first).map_err(|e| Box::new((statement.clone(), e)))?;
        }
        let end = self.code.insts.len() as u32;
        instance.starts.push(end);
        for (inst, statement) in &instance.jumps {
            self.code.insts[*inst].target = instance.starts[*statement];
        }
        for (table, statements) in &instance.tables {
            self.code.tables[*table] = statements.iter().map(|s| instance.starts[*s]).collect();
        }
        for inst in &instance.returns {
            self.code.insts[*inst].target = end;
        }
        self.stack.pop();
        Ok(())
    }

    /// Sets the guard of the instructions made from a statement.
    fn guard(&mut self, instance: &mut Instance<'a>, statement: &Statement, first: usize) -> Result<()> {
        let Some((name, negated)) = &statement.guard else { return Ok(()) };
        let p = self.register(instance, statement.scope, name, &[Class::Pred])?;
        for inst in &mut self.code.insts[first..] {
            inst.guard = p | if *negated { NEGATED } else { 0 };
        }
        Ok(())
    }

    /// Appends an instruction with the current note.
    pub(crate) fn push(&mut self, inst: Inst) {
        self.code.insts.push(inst);
        self.code.notes.push(self.note.clone());
    }

    pub(crate) fn class(&mut self, class: InstructionClass, work: Work) {
        self.note.class = class;
        self.note.work = work;
    }

    pub(crate) fn traffic(&mut self, traffic: Traffic) {
        self.note.traffic = traffic;
    }

    fn statement(&mut self, instance: &mut Instance<'a>, s: &Statement) -> Result<()> {
        let mut op = Opcode::new(&s.opcode);
        let known = self.control(instance, s, &mut op)?
            || self.moves(instance, s, &mut op)?
            || self.arithmetic(instance, s, &mut op)?
            || self.access(instance, s, &mut op)?
            || self.collective(instance, s, &mut op)?
            || self.tensor(instance, s, &mut op)?;
        if !known {
            return Err("this instruction is not supported".to_owned());
        }
        op.finish()
    }

    fn control(&mut self, instance: &mut Instance<'a>, s: &Statement, op: &mut Opcode) -> Result<bool> {
        let mut inst = Inst::new(Cx::nothing);
        self.class(InstructionClass::Control, Work::None);
        match op.base.as_str() {
            "bra" => {
                op.flag("uni");
                let [Operand::Name(label)] = &s.operands[..] else {
                    return Err("a label expected".to_owned());
                };
                let target = find_label(instance.function, s.scope, label)?;
                instance.jumps.push((self.code.insts.len(), target));
                inst.control = Control::Branch;
            }
            "brx" => {
                op.flag("idx");
                op.flag("uni");
                let [index, Operand::Name(table)] = &s.operands[..] else {
                    return Err("an index and a table expected".to_owned());
                };
                let targets = find_table(instance.function, s.scope, table)?;
                let targets: Result<Vec<usize>> =
                    targets.iter().map(|t| find_label(instance.function, s.scope, t)).collect();
                instance.tables.push((self.code.tables.len(), targets?));
                inst.a = self.source(instance, s, index, Class::B32)?;
                inst.target = self.code.tables.len() as u32;
                self.code.tables.push(Vec::new());
                inst.control = Control::Table;
            }
            "ret" if self.stack.len() > 1 => {
                op.flag("uni");
                instance.returns.push(self.code.insts.len());
                inst.control = Control::Branch;
            }
            "ret" | "exit" => {
                op.flag("uni");
                inst.control = Control::Exit;
            }
            "trap" => inst.control = Control::Trap,
            "brkpt" | "nanosleep" | "prefetch" | "prefetchu" | "applypriority" | "discard" | "pmevent" => {
                op.rest();
                return Ok(true);
            }
            _ => return Ok(false),
        }
        self.push(inst);
        Ok(true)
    }

    /// Expands a call in place.
    fn call(&mut self, instance: &mut Instance<'a>, s: &Statement) -> std::result::Result<(), Fault> {
        let fail = |message: String| Box::new((s.clone(), message));
        let group = |o: &Operand| -> Option<Vec<String>> {
            let Operand::Group(all) = o else { return None };
            let name = |o: &Operand| match o {
                Operand::Name(n) => Some(n.clone()),
                _ => None,
            };
            all.iter().map(name).collect()
        };
        let (results, callee, arguments) = match &s.operands[..] {
            [r, Operand::Name(f), a, ..] if group(r).is_some() => (group(r), f, group(a)),
            [Operand::Name(f), a, ..] => (Some(Vec::new()), f, group(a)),
            [r, Operand::Name(f)] => (group(r), f, Some(Vec::new())),
            [Operand::Name(f)] => (Some(Vec::new()), f, Some(Vec::new())),
            _ => return Err(fail("calls of this form are not supported".to_owned())),
        };
        let (Some(results), Some(arguments)) = (results, arguments) else {
            return Err(fail("parameters must be variables of the `.param` space".to_owned()));
        };
        let place = |this: &mut Self, instance: &mut Instance<'a>, name: &str| {
            this.param_variable(instance, s.scope, name).map_err(|e| Box::new((s.clone(), e)))
        };
        match callee.as_str() {
            "vprintf" => {
                // Nothing is printed; the number of characters it returns is 0.
                for r in &results {
                    let offset = place(self, instance, r)?;
                    self.store_zero(offset);
                }
                return Ok(());
            }
            "__assertfail" => {
                let mut inst = Inst::new(Cx::nothing);
                inst.control = Control::Trap;
                self.class(InstructionClass::Control, Work::None);
                self.push(inst);
                return Ok(());
            }
            _ => {}
        }
        let Some(function) =
            self.text.functions.iter().find(|f| f.has_body && !f.is_entry && f.name == *callee)
        else {
            return Err(fail(format!("no function `{callee}` with a body in this module")));
        };
        if self.stack.len() >= DEEPEST || self.stack.contains(callee) {
            return Err(fail(format!("`{callee}` calls itself; recursion is not supported")));
        }
        if s.guard.is_some() {
            return Err(fail("calls under a guard are not supported".to_owned()));
        }
        let formal = function.returns.iter().chain(&function.parameters);
        let actual = results.iter().chain(&arguments);
        if function.returns.len() != results.len() || function.parameters.len() != arguments.len() {
            return Err(fail(format!("`{callee}` takes other parameters")));
        }
        let mut bindings = HashMap::new();
        for (f, a) in formal.zip(actual) {
            bindings.insert(f.name.clone(), place(self, instance, a)?);
        }
        let note = self.note.clone();
        let mut inner = Self::instance(function, bindings);
        self.body(&mut inner)?;
        self.note = note;
        Ok(())
    }

    /// Last steps: control flow, unset registers, rows.
    fn finish(&mut self) {
        let code = &mut self.code;
        code.local_bytes = self.layout.local.next_multiple_of(16);
        code.shared_bytes = self.layout.shared_end;
        code.dynamic_start = self.layout.dynamic_start;
        code.shared_ranges = self.layout.ranges.clone();
        crate::code::leave_early(&mut code.insts);
        crate::code::reconvergence(&mut code.insts, &code.tables);
        track_unset(code);
        crate::code::allocate(code);
    }
}

fn empty_note() -> Note {
    Note {
        ptx_line: 0,
        source: None,
        text: String::new(),
        class: InstructionClass::Other,
        work: Work::None,
        traffic: Traffic::None,
    }
}

/// Finds registers that may be read before they are set; only these are tracked while running.
fn track_unset(code: &mut Code) {
    let is_copy = |at: usize| code.insts[at].is_copy;
    let reads = crate::code::unset_reads(&code.insts, &code.tables, code.classes.len(), is_copy);
    if reads.is_empty() {
        return;
    }
    let mut number: HashMap<u32, u32> = HashMap::new();
    // Copies of such registers are tracked as well: their results are read somewhere in the list.
    for (_, r) in &reads {
        if !number.contains_key(r) {
            number.insert(*r, code.tracked.len() as u32);
            code.tracked.push(code.names[*r as usize].clone());
        }
    }
    let copies: Vec<bool> = (0..code.insts.len()).map(is_copy).collect();
    for (at, r) in reads {
        if !copies[at as usize] {
            code.insts[at as usize].checks_unset = true;
            code.unset_reads.entry(at).or_default().push(number[&r]);
        }
    }
    for at in 0..code.insts.len() {
        let written: Vec<u32> = code.insts[at].defs().filter_map(|r| number.get(&r).copied()).collect();
        if written.is_empty() {
            continue;
        }
        if copies[at] {
            let source = code.insts[at].uses().find_map(|r| number.get(&r).copied());
            code.tracked_copies.insert(at as u32, source);
        }
        code.insts[at].sets_tracked = true;
        code.tracked_writes.insert(at as u32, written);
    }
}

fn find_label(function: &Function, scope: usize, name: &str) -> Result<usize> {
    let mut at = Some(scope);
    while let Some(s) = at {
        if let Some(target) = function.scopes[s].labels.get(name) {
            return Ok(*target);
        }
        at = function.scopes[s].parent;
    }
    Err(format!("no label `{name}`"))
}

fn find_table<'f>(function: &'f Function, scope: usize, name: &str) -> Result<&'f [String]> {
    let mut at = Some(scope);
    while let Some(s) = at {
        if let Some(table) = function.scopes[s].tables.get(name) {
            return Ok(table);
        }
        at = function.scopes[s].parent;
    }
    Err(format!("no table `{name}`"))
}

fn declared_registers(function: &Function) -> Registers {
    let mut out = Registers::default();
    let mut add = |class: Class, n: u32| match class {
        Class::Pred => out.predicates += n,
        Class::B16 => out.bits16 += n,
        Class::B32 => out.bits32 += n,
        Class::B64 => out.bits64 += n,
    };
    for scope in &function.scopes {
        scope.registers.values().for_each(|class| add(*class, 1));
        // `%r<10>` declares %r0 to %r9; compilers start at 1.
        scope.ranges.values().for_each(|(class, n)| add(*class, n.saturating_sub(1)));
    }
    out
}

/// A variable that a name means in a scope of a function.
fn find_variable<'f>(function: &'f Function, scope: usize, name: &str) -> Option<(usize, &'f Declared)> {
    let mut at = Some(scope);
    while let Some(s) = at {
        if let Some(variable) = function.scopes[s].variables.get(name) {
            return Some((s, variable));
        }
        at = function.scopes[s].parent;
    }
    None
}
