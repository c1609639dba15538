//! Colours for CUDA C++: comments, words of the language, numbers, strings. A line at a time, with the one state that
//! crosses lines, a block comment.

use super::escape;

const WORDS: [&str; 38] = [
    "__global__",
    "__device__",
    "__shared__",
    "__constant__",
    "__restrict__",
    "__launch_bounds__",
    "__align__",
    "alignas",
    "asm",
    "auto",
    "bool",
    "break",
    "case",
    "char",
    "const",
    "constexpr",
    "continue",
    "default",
    "do",
    "double",
    "else",
    "extern",
    "float",
    "for",
    "if",
    "int",
    "long",
    "return",
    "short",
    "sizeof",
    "static",
    "struct",
    "switch",
    "template",
    "unsigned",
    "void",
    "volatile",
    "while",
];

/// Highlights the lines of one file in order.
#[derive(Default)]
pub struct Highlighter {
    in_comment: bool,
}

impl Highlighter {
    /// One line as HTML.
    pub fn line(&mut self, line: &str) -> String {
        let mut out = String::new();
        let mut rest = line;
        while !rest.is_empty() {
            let (class, length) = self.token(rest);
            let (token, tail) = rest.split_at(length);
            match class {
                "" => out.push_str(&escape(token)),
                _ => out.push_str(&format!("<i class={class}>{}</i>", escape(token))),
            }
            rest = tail;
        }
        out
    }

    /// Class and bytes of the token that `rest` starts with.
    fn token(&mut self, rest: &str) -> (&'static str, usize) {
        if self.in_comment || rest.starts_with("/*") {
            let skip = if self.in_comment { 0 } else { 2 };
            let end = rest[skip..].find("*/").map(|at| at + skip + 2);
            self.in_comment = end.is_none();
            return ("c", end.unwrap_or(rest.len()));
        }
        if rest.starts_with("//") {
            return ("c", rest.len());
        }
        let first = rest.chars().next().unwrap_or(' ');
        let while_true = |test: fn(char) -> bool| rest.find(|c| !test(c)).unwrap_or(rest.len());
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        match first {
            '"' | '\'' => {
                let mut escaped = false;
                let end = rest.char_indices().skip(1).find(|(_, c)| {
                    let ends = *c == first && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                ("s", end.map_or(rest.len(), |(at, c)| at + c.len_utf8()))
            }
            '#' => ("k", while_true(|c| c == '#' || c.is_alphanumeric())),
            '0'..='9' => ("n", while_true(|c| c.is_alphanumeric() || c == '.')),
            _ if in_word(first) => {
                let length = while_true(|c| c.is_alphanumeric() || c == '_');
                (if WORDS.contains(&&rest[..length]) { "k" } else { "" }, length)
            }
            _ => ("", while_true(|c| !(c.is_alphanumeric() || "_\"'/#".contains(c))).max(first.len_utf8())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Highlighter;

    #[test]
    fn tokens_are_found_and_nothing_is_lost() {
        let mut h = Highlighter::default();
        assert_eq!(
            h.line("for (int i = 0; i < n; ++i) // up"),
            "<i class=k>for</i> (<i class=k>int</i> i = <i class=n>0</i>; i &lt; n; ++i) <i class=c>// up</i>"
        );
        assert_eq!(h.line("a /* b"), "a <i class=c>/* b</i>");
        assert_eq!(h.line("c */ d / e"), "<i class=c>c */</i> d / e");
        assert_eq!(
            h.line(r#"f("a\"b", 'x')"#),
            "f(<i class=s>&quot;a\\&quot;b&quot;</i>, <i class=s>&#39;x&#39;</i>)"
        );
        assert_eq!(h.line("#pragma unroll 4"), "<i class=k>#pragma</i> unroll <i class=n>4</i>");
        assert_eq!(h.line("größe = 0x1f;"), "größe = <i class=n>0x1f</i>;");
        assert_eq!(h.line("/"), "/");
    }

    #[test]
    fn a_comment_of_slash_star_slash_is_open() {
        let mut h = Highlighter::default();
        assert_eq!(h.line("/*/ x"), "<i class=c>/*/ x</i>");
        assert_eq!(h.line("*/ y"), "<i class=c>*/</i> y");
    }
}
