//! The annotated source listing: one self-contained HTML page of what a launch did, line by line.
//!
//! No script, no font, no picture from elsewhere: the page is a file that can be sent, committed or archived.

mod highlight;
mod listing;
mod page;

pub use page::HtmlReport;

/// Text with the characters that mean something in HTML replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// A count with a narrow space between each three digits: `1 234 567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A count in three or four significant digits: `987`, `12.3 K`, `457 M`.
fn short(count: u64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")];
    let value = count as f64;
    let Some((step, letter)) = steps.into_iter().find(|s| value >= s.0 * 10.0) else {
        return grouped(count);
    };
    let decimals = usize::from(value < step * 100.0);
    format!("{:.decimals$}\u{202f}{letter}", value / step)
}

/// A time in a unit that suits it: `1.25 µs`.
fn time(seconds: f64) -> String {
    let steps = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];
    let (unit, name) = steps.into_iter().find(|s| seconds >= s.0).unwrap_or((1e-9, "ns"));
    format!("{:.3}\u{202f}{name}", seconds / unit)
}

/// A share in per cent, without decimals from ten on.
fn per_cent(share: f64) -> String {
    if share >= 0.0995 || share == 0.0 {
        format!("{:.0}\u{202f}%", share * 100.0)
    } else {
        format!("{:.1}\u{202f}%", share * 100.0)
    }
}

/// `a / b`, or 0 where `b` is.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

#[cfg(test)]
mod tests {
    use super::{escape, grouped, per_cent, short, time};

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(short(9_999), "9\u{202f}999");
        assert_eq!(short(12_345), "12.3\u{202f}K");
        assert_eq!(short(456_700_000), "457\u{202f}M");
        assert_eq!(short(10_000_000_000), "10.0\u{202f}G");
        assert_eq!(time(1.25e-6), "1.250\u{202f}µs");
        assert_eq!(time(0.0), "0.000\u{202f}ns");
        assert_eq!(per_cent(1.0), "100\u{202f}%");
        assert_eq!(per_cent(0.034), "3.4\u{202f}%");
    }

    #[test]
    fn markup_in_names_stays_text() {
        assert_eq!(escape("a<b && \"c\">'d'"), "a&lt;b &amp;&amp; &quot;c&quot;&gt;&#39;d&#39;");
    }
}
