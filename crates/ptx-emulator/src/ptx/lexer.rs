//! Tokens of PTX.

use super::Place;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Names, opcodes with their modifiers, directives with their leading dot.
    Word(String),
    Int(u64),
    F32(u32),
    F64(u64),
    Text(String),
    Mark(u8),
    End,
}

#[derive(Clone, Debug)]
pub(super) struct Lexed {
    pub token: Token,
    pub place: Place,
    /// Byte offsets in the source.
    pub start: usize,
    pub end: usize,
}

/// Splits `source`; the error is a place and what is wrong there.
pub(super) fn lex(source: &str) -> Result<Vec<Lexed>, (Place, String)> {
    let s = source.as_bytes();
    let mut out = Vec::with_capacity(s.len() / 4);
    let (mut i, mut line, mut line_start) = (0, 1_u32, 0);
    while i < s.len() {
        let c = s[i];
        if c == b'\n' {
            line += 1;
            line_start = i + 1;
            i += 1;
            continue;
        }
        if c.is_ascii_whitespace() || c == 0 {
            i += 1;
            continue;
        }
        let place = Place { line, column: (i - line_start + 1) as u32 };
        if s[i..].starts_with(b"//") {
            while i < s.len() && s[i] != b'\n' {
                i += 1;
            }
            continue;
        }
        if s[i..].starts_with(b"/*") {
            i += 2;
            while !s[i..].starts_with(b"*/") {
                if i >= s.len() {
                    return Err((place, "comment without end".to_owned()));
                }
                if s[i] == b'\n' {
                    line += 1;
                    line_start = i + 1;
                }
                i += 1;
            }
            i += 2;
            continue;
        }
        let start = i;
        let token = if c.is_ascii_digit() {
            let end = i + s[i..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'.').count();
            let token = number(&source[i..end])
                .ok_or_else(|| (place, format!("`{}` is no number", &source[i..end])))?;
            i = end;
            token
        } else if is_word(c) {
            while i < s.len() {
                let double_colon = s[i..].starts_with(b"::");
                if double_colon {
                    i += 2;
                } else if is_word(s[i]) || s[i].is_ascii_digit() {
                    i += 1;
                } else {
                    break;
                }
            }
            Token::Word(source[start..i].to_owned())
        } else if c == b'"' {
            i += 1;
            let from = i;
            while i < s.len() && s[i] != b'"' && s[i] != b'\n' {
                i += if s[i] == b'\\' { 2 } else { 1 };
            }
            if i >= s.len() || s[i] != b'"' || !source.is_char_boundary(i) {
                return Err((place, "text without closing quote".to_owned()));
            }
            i += 1;
            Token::Text(source[from..i - 1].to_owned())
        } else if c.is_ascii_punctuation() {
            i += 1;
            Token::Mark(c)
        } else {
            return Err((place, "a character that PTX does not have".to_owned()));
        };
        out.push(Lexed { token, place, start, end: i });
    }
    let place = Place { line, column: (s.len() - line_start + 1) as u32 };
    out.push(Lexed { token: Token::End, place, start: s.len(), end: s.len() });
    Ok(out)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn number(text: &str) -> Option<Token> {
    if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Token::F32)).flatten();
    }
    if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok().map(Token::F64)).flatten();
    }
    if text.contains('.') {
        return text.parse::<f64>().ok().map(|x| Token::F64(x.to_bits()));
    }
    let text = text.trim_end_matches(['U', 'u']);
    let parsed = if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = text.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if text.len() > 1 && text.starts_with('0') {
        u64::from_str_radix(text, 8)
    } else {
        text.parse()
    };
    parsed.ok().map(Token::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_words_and_places() {
        let tokens =
            lex("ld.global.f32 %f1, [%rd1+4]; // x\n 0f3F800000 0x1F 017 -1 0d3FF0000000000000").unwrap();
        let kinds: Vec<&Token> = tokens.iter().map(|t| &t.token).collect();
        assert_eq!(kinds[0], &Token::Word("ld.global.f32".into()));
        assert_eq!(kinds[1], &Token::Word("%f1".into()));
        assert_eq!(kinds[9], &Token::F32(0x3f80_0000));
        assert_eq!(tokens[9].place, Place { line: 2, column: 2 });
        assert_eq!(kinds[10], &Token::Int(31));
        assert_eq!(kinds[11], &Token::Int(15));
        assert_eq!(kinds[14], &Token::F64(0x3ff0_0000_0000_0000));
    }

    #[test]
    fn what_is_no_number_is_told() {
        assert_eq!(lex("  12zz").unwrap_err().0, Place { line: 1, column: 3 });
        assert!(lex("/* open").is_err());
        assert!(lex("\"open").is_err());
    }
}
