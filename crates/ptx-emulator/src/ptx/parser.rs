//! Statements of PTX: module directives, function heads and bodies.

use super::lexer::{Lexed, Token, lex};
use super::{Class, Declared, Function, Home, Operand, Place, Scope, Statement, Text};
use crate::error::ParseError;

pub(super) type Result<T> = std::result::Result<T, ParseError>;

/// Parses a module; `name` is what errors call the file.
pub(crate) fn parse(source: &str, name: &str) -> Result<Text> {
    let tokens = lex(source).map_err(|(place, message)| ParseError {
        file: name.to_owned(),
        line: place.line,
        column: place.column,
        message,
        text: String::new(),
    })?;
    let mut parser = Parser { source, name, tokens, at: 0, source_line: None, out: Text::default() };
    parser.module()?;
    Ok(parser.out)
}

pub(super) struct Parser<'a> {
    source: &'a str,
    name: &'a str,
    tokens: Vec<Lexed>,
    at: usize,
    source_line: Option<(u32, u32)>,
    out: Text,
}

impl Parser<'_> {
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    pub(super) fn place(&self) -> Place {
        self.tokens[self.at].place
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.tokens[self.at].token.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    /// An error at the current token.
    pub(super) fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        let token = &self.tokens[self.at];
        Err(ParseError {
            file: self.name.to_owned(),
            line: token.place.line,
            column: token.place.column,
            message: message.into(),
            text: self.source[token.start..token.end].to_owned(),
        })
    }

    pub(super) fn take(&mut self, mark: u8) -> bool {
        let found = *self.peek() == Token::Mark(mark);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect(&mut self, mark: u8) -> Result<()> {
        if self.take(mark) { Ok(()) } else { self.error(format!("`{}` expected", char::from(mark))) }
    }

    pub(super) fn word(&mut self) -> Result<String> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.next();
                Ok(word)
            }
            _ => self.error("a name expected"),
        }
    }

    pub(super) fn peek_word(&self) -> Option<&str> {
        if let Token::Word(word) = self.peek() { Some(word) } else { None }
    }

    pub(super) fn int(&mut self) -> Result<u64> {
        match *self.peek() {
            Token::Int(value) => {
                self.next();
                Ok(value)
            }
            _ => self.error("a number expected"),
        }
    }

    fn int32(&mut self) -> Result<u32> {
        u32::try_from(self.int()?).or_else(|_| self.error("the number is too large"))
    }

    fn module(&mut self) -> Result<()> {
        let mut is_extern = false;
        loop {
            if *self.peek() == Token::End {
                return if self.out.version == (0, 0) {
                    self.error("no `.version`: this is no PTX")
                } else {
                    Ok(())
                };
            }
            if self.take(b';') {
                continue;
            }
            let word = self.word()?;
            match word.as_str() {
                ".version" => {
                    // `7.0` was read as a decimal number.
                    self.out.version = match self.next() {
                        Token::F64(bits) => {
                            let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                            (tenths / 10, tenths % 10)
                        }
                        Token::Int(major) => (major as u32, 0),
                        _ => return self.error("a version expected"),
                    };
                }
                ".target" => {
                    self.out.target = self.word()?;
                    while self.take(b',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    if self.int()? != 64 {
                        return self.error("only 64-bit addresses are supported");
                    }
                }
                ".visible" | ".weak" | ".common" => {}
                ".extern" => {
                    is_extern = true;
                    continue;
                }
                ".file" => self.file()?,
                ".section" => self.section()?,
                ".loc" => self.loc()?,
                ".pragma" => self.until_semicolon(),
                ".entry" => self.function(true, is_extern)?,
                ".func" => self.function(false, is_extern)?,
                ".global" | ".const" | ".shared" => {
                    let home = match word.as_str() {
                        ".global" => Home::Global,
                        ".const" => Home::Const,
                        _ => Home::Shared,
                    };
                    let declared = self.variables(home, is_extern)?;
                    self.out.variables.extend(declared);
                }
                ".alias" => self.until_semicolon(),
                _ => {
                    self.at -= 1;
                    return self.error("an unknown directive");
                }
            }
            is_extern = false;
        }
    }

    fn until_semicolon(&mut self) {
        while !matches!(self.peek(), Token::Mark(b';') | Token::End) {
            self.next();
        }
        self.take(b';');
    }

    fn file(&mut self) -> Result<()> {
        let number = self.int32()?;
        let Token::Text(name) = self.next() else { return self.error("a file name expected") };
        self.out.files.insert(number, name);
        // Time stamp and size.
        while self.take(b',') {
            self.int()?;
        }
        Ok(())
    }

    fn loc(&mut self) -> Result<()> {
        let file = self.int32()?;
        let line = self.int32()?;
        self.int()?;
        // Line 0 marks what the compiler made up: it stays with the line before.
        if line != 0 {
            self.source_line = Some((file, line));
        }
        // `, function_name label [+offset], inlined_at file line column`
        while self.take(b',') {
            if self.word()? == "inlined_at" {
                self.int()?;
                self.int()?;
                self.int()?;
            } else {
                self.word()?;
                if self.take(b'+') {
                    self.int()?;
                }
            }
        }
        Ok(())
    }

    /// Debug sections: skipped.
    fn section(&mut self) -> Result<()> {
        while !matches!(self.peek(), Token::Mark(b'{') | Token::End) {
            self.next();
        }
        self.expect(b'{')?;
        while !matches!(self.peek(), Token::Mark(b'}') | Token::End) {
            self.next();
        }
        self.expect(b'}')
    }

    fn function(&mut self, is_entry: bool, is_extern: bool) -> Result<()> {
        let mut f = Function { is_entry, place: self.place(), ..Function::default() };
        if *self.peek() == Token::Mark(b'(') {
            f.returns = self.parameters()?;
        }
        f.name = self.word()?;
        if *self.peek() == Token::Mark(b'(') {
            f.parameters = self.parameters()?;
        }
        loop {
            match self.peek_word() {
                Some(".maxntid" | ".reqntid") => {
                    let required = self.word()? == ".reqntid";
                    let mut size = [self.int32()?, 1, 1];
                    for axis in 1..3 {
                        if self.take(b',') {
                            size[axis] = self.int32()?;
                        }
                    }
                    if required {
                        f.required_threads = Some(size);
                    } else {
                        f.max_threads = Some(size);
                    }
                }
                Some(".minnctapersm") => {
                    self.next();
                    f.min_blocks = Some(self.int32()?);
                }
                Some(".maxnreg") => {
                    self.next();
                    f.max_registers = Some(self.int32()?);
                }
                Some(".noreturn") => {
                    self.next();
                }
                Some(".pragma") => self.until_semicolon(),
                Some(
                    ".attribute" | ".abi_preserve" | ".reqnctapercluster" | ".explicitcluster"
                    | ".maxclusterrank",
                ) => {
                    return self.error("this directive is not supported");
                }
                _ => break,
            }
        }
        if self.take(b';') || is_extern {
            self.out.functions.push(f);
            return Ok(());
        }
        f.has_body = true;
        f.scopes.push(Scope::default());
        self.source_line = None;
        self.expect(b'{')?;
        self.body(&mut f, 0)?;
        self.out.functions.push(f);
        Ok(())
    }

    /// Statements up to the closing brace.
    fn body(&mut self, f: &mut Function, scope: usize) -> Result<()> {
        loop {
            match self.peek().clone() {
                Token::End => return self.error("`}` expected"),
                Token::Mark(b'}') => {
                    self.next();
                    return Ok(());
                }
                Token::Mark(b'{') => {
                    self.next();
                    f.scopes.push(Scope { parent: Some(scope), ..Scope::default() });
                    let inner = f.scopes.len() - 1;
                    self.body(f, inner)?;
                }
                Token::Mark(b';') => {
                    self.next();
                }
                Token::Mark(b'@') => self.instruction(f, scope)?,
                Token::Word(word) => {
                    if self.tokens[self.at + 1].token == Token::Mark(b':') {
                        self.next();
                        self.next();
                        if self.peek_word() == Some(".branchtargets") {
                            self.next();
                            let targets = self.names()?;
                            f.scopes[scope].tables.insert(word, targets);
                        } else {
                            f.scopes[scope].labels.insert(word, f.body.len());
                        }
                    } else if word.starts_with('.') {
                        self.next();
                        self.local_directive(&word, f, scope)?;
                    } else {
                        self.instruction(f, scope)?;
                    }
                }
                _ => return self.error("an instruction expected"),
            }
        }
    }

    fn names(&mut self) -> Result<Vec<String>> {
        let mut names = vec![self.word()?];
        while self.take(b',') {
            names.push(self.word()?);
        }
        self.expect(b';')?;
        Ok(names)
    }

    fn local_directive(&mut self, word: &str, f: &mut Function, scope: usize) -> Result<()> {
        match word {
            ".loc" => self.loc(),
            ".pragma" => {
                self.until_semicolon();
                Ok(())
            }
            ".reg" => self.registers(&mut f.scopes[scope]),
            ".local" | ".shared" | ".param" => {
                let home = match word {
                    ".local" => Home::Local,
                    ".shared" => Home::Shared,
                    _ => Home::Param,
                };
                for declared in self.variables(home, false)? {
                    f.scopes[scope].variables.insert(declared.name.clone(), declared);
                }
                Ok(())
            }
            _ => {
                self.at -= 1;
                self.error("an unknown directive")
            }
        }
    }

    fn registers(&mut self, scope: &mut Scope) -> Result<()> {
        let kind = self.word()?;
        let class = match kind.as_str() {
            ".pred" => Class::Pred,
            ".b8" | ".u8" | ".s8" | ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => Class::B16,
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => Class::B32,
            ".b64" | ".u64" | ".s64" | ".f64" => Class::B64,
            _ => {
                self.at -= 1;
                return self.error("registers of this type are not supported");
            }
        };
        loop {
            let name = self.word()?;
            if self.take(b'<') {
                let count = self.int32()?;
                self.expect(b'>')?;
                scope.ranges.insert(name, (class, count));
            } else {
                scope.registers.insert(name, class);
            }
            if !self.take(b',') {
                return self.expect(b';');
            }
        }
    }

    fn parameters(&mut self) -> Result<Vec<Declared>> {
        self.expect(b'(')?;
        let mut all = Vec::new();
        while !self.take(b')') {
            if self.word()? != ".param" {
                self.at -= 1;
                return self.error("parameters in registers are not supported");
            }
            all.push(self.declaration(Home::Param, false)?);
            self.take(b',');
        }
        Ok(all)
    }

    fn instruction(&mut self, f: &mut Function, scope: usize) -> Result<()> {
        let place = self.place();
        let start = self.tokens[self.at].start;
        let mut guard = None;
        if self.take(b'@') {
            let negated = self.take(b'!');
            guard = Some((self.word()?, negated));
        }
        let opcode = self.word()?;
        let mut operands = Vec::new();
        while !self.take(b';') {
            operands.push(self.operand()?);
            if !self.take(b',') {
                self.expect(b';')?;
                break;
            }
        }
        let end = self.tokens[self.at - 1].end;
        let text = self.source[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
        let text = text.trim_end_matches(';').trim_end().to_owned();
        let source = self.source_line;
        f.body.push(Statement { place, source, scope, guard, opcode, operands, text });
        Ok(())
    }

    fn list(&mut self, end: u8) -> Result<Vec<Operand>> {
        let mut all = Vec::new();
        while !self.take(end) {
            all.push(self.operand()?);
            if !self.take(b',') {
                self.expect(end)?;
                break;
            }
        }
        Ok(all)
    }

    /// A signed number after a name or a sign.
    fn offset(&mut self) -> Result<i64> {
        let mut sum = 0_i64;
        loop {
            let sign = if self.take(b'+') {
                if self.take(b'-') { -1 } else { 1 }
            } else if self.take(b'-') {
                -1
            } else {
                return Ok(sum);
            };
            sum = sum.wrapping_add((self.int()? as i64).wrapping_mul(sign));
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        let operand = match self.next() {
            Token::Word(word) if word == "_" => Operand::Sink,
            Token::Word(word) => {
                if matches!(self.peek(), Token::Mark(b'+')) {
                    let offset = self.offset()?;
                    Operand::Address(Some(word), offset, false)
                } else {
                    Operand::Name(word)
                }
            }
            Token::Int(value) => Operand::Int(value),
            Token::F32(bits) => Operand::F32(bits),
            Token::F64(bits) => Operand::F64(bits),
            Token::Mark(b'-') => match self.next() {
                Token::Int(value) => Operand::Int(value.wrapping_neg()),
                Token::F64(bits) => Operand::F64(bits ^ (1 << 63)),
                Token::F32(bits) => Operand::F32(bits ^ (1 << 31)),
                _ => return self.error("a number expected"),
            },
            Token::Mark(b'!') => Operand::Not(self.word()?),
            Token::Mark(b'{') => Operand::Vector(self.list(b'}')?),
            Token::Mark(b'(') => Operand::Group(self.list(b')')?),
            Token::Mark(b'[') => {
                let operand = match self.peek().clone() {
                    Token::Word(word) => {
                        self.next();
                        let offset = self.offset()?;
                        Operand::Address(Some(word), offset, true)
                    }
                    Token::Int(value) => {
                        self.next();
                        Operand::Address(None, value as i64, true)
                    }
                    _ => return self.error("an address expected"),
                };
                if !self.take(b']') {
                    return self.error("addresses of this form are not supported");
                }
                operand
            }
            _ => {
                self.at -= 1;
                return self.error("an operand expected");
            }
        };
        if self.take(b'|') {
            let second = self.operand()?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }
}
