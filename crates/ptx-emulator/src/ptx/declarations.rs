//! Declarations of variables: `.align 16 .b8 name[48] = {…}`.

use super::lexer::Token;
use super::parser::{Parser, Result};
use super::{Declared, Home};

/// Bytes of a type such as `.f32`; `None` for unknown types.
fn type_bytes(word: &str) -> Option<u64> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

impl Parser<'_> {
    /// `declaration (, name…)* ;`
    pub(super) fn variables(&mut self, home: Home, is_extern: bool) -> Result<Vec<Declared>> {
        let mut all = vec![self.declaration(home, is_extern)?];
        while self.take(b',') {
            let mut next = all[0].clone();
            next.name = self.word()?;
            all.push(next);
        }
        self.expect(b';')?;
        Ok(all)
    }

    /// One declaration, from what follows its state space up to the initial value.
    pub(super) fn declaration(&mut self, home: Home, is_extern: bool) -> Result<Declared> {
        let mut align = None;
        let mut lanes = 1;
        let element = loop {
            let word = self.word()?;
            match word.as_str() {
                ".align" => align = Some(self.int()? as u32),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".visible" | ".extern" | ".weak" | ".common" => {}
                // `.param .u64 .ptr .global .align 4 name`: hints on a pointer parameter.
                other => match type_bytes(other) {
                    Some(bytes) => break bytes,
                    None => return self.error("an unknown type"),
                },
            }
        };
        while self.peek_word().is_some_and(|w| w.starts_with('.')) {
            if self.word()? == ".align" {
                self.int()?;
            }
        }
        let name = self.word()?;
        let mut count = lanes;
        let mut open = false;
        while self.take(b'[') {
            if self.take(b']') {
                open = true;
                continue;
            }
            count *= self.int()?;
            self.expect(b']')?;
        }
        let mut declared = Declared {
            name,
            home,
            align: align.unwrap_or((element * lanes) as u32).max(1),
            bytes: element.saturating_mul(count),
            dynamic: home == Home::Shared && is_extern && (open || count == 0),
            is_extern,
            data: Vec::new(),
            relocations: Vec::new(),
        };
        if self.take(b'=') {
            self.initial(&mut declared, element)?;
        }
        if open {
            declared.bytes = declared.data.len() as u64;
        }
        Ok(declared)
    }

    fn initial(&mut self, declared: &mut Declared, element: u64) -> Result<()> {
        if self.take(b'{') {
            while !self.take(b'}') {
                self.initial(declared, element)?;
                self.take(b',');
            }
            return Ok(());
        }
        let negative = self.take(b'-');
        let mut bits = match self.next() {
            Token::Int(value) => value,
            Token::F32(bits) => u64::from(bits),
            Token::F64(bits) => bits,
            Token::Word(mut symbol) => {
                // `generic(name)+8`
                if symbol == "generic" && self.take(b'(') {
                    symbol = self.word()?;
                    self.expect(b')')?;
                }
                let addend = if self.take(b'+') { self.int()? } else { 0 };
                declared.relocations.push((declared.data.len(), symbol, addend));
                0
            }
            _ => return self.error("an initial value expected"),
        };
        if negative {
            bits = bits.wrapping_neg();
        }
        declared.data.extend_from_slice(&bits.to_le_bytes()[..(element as usize).min(8)]);
        Ok(())
    }
}
