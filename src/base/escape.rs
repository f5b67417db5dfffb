//! Text of others on its way to the terminal. Requests, models, tokenizers, file names and what
//! libraries say may contain characters that a terminal obeys (it moves the cursor, changes
//! colours and titles) or that reorder what is read. They are shown as what they are instead:
//! `\n`, `\u{1b}`.

use std::borrow::Cow;

/// On one line: line ends and tabs are shown too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, is_obeyed, |c| c.escape_default().to_string())
}

/// Of several lines: line ends and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    let obeyed = |c| is_obeyed(c) && !matches!(c, '\n' | '\t');
    replaced(text, obeyed, |c| c.escape_default().to_string())
}

/// JSON that means the same. JSON itself escapes in texts only what is below a space.
pub fn json(text: &str) -> Cow<'_, str> {
    replaced(text, is_obeyed, |c| format!("\\u{:04x}", u32::from(c)))
}

/// A value as JSON over several lines, for files that people read too.
pub fn pretty_json(value: &serde_json::Value) -> String {
    format!("{value:#}").lines().map(|line| format!("{}\n", json(line))).collect()
}

/// What a terminal does, in place of showing it, or a pager takes for a line's end.
fn is_obeyed(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

fn replaced(text: &str, is: impl Fn(char) -> bool, by: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is(c) { shown += &by(c) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        for (text, shown) in [
            ("\u{1b}[31mRed\u{1b}]0;title\u{7}", r"\u{1b}[31mRed\u{1b}]0;title\u{7}"),
            ("a\nb\r\tc\u{0}", r"a\nb\r\tc\u{0}"),
            ("\u{7f}\u{9b}31m\u{85}", r"\u{7f}\u{9b}31m\u{85}"),
            (
                "\u{202e}txt\u{2066}\u{2069}\u{200f}\u{61c}",
                r"\u{202e}txt\u{2066}\u{2069}\u{200f}\u{61c}",
            ),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
        ] {
            assert_eq!(one_line(text), shown);
        }
        assert_eq!(lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let text = "Zoë → 東京 👩\u{200d}🚀 می\u{200c}خواهم C:\\new \"quoted\"";
        assert!(matches!(one_line(text), Cow::Borrowed(same) if same == text));
        assert_eq!(lines("a\n\tb"), "a\n\tb");
    }

    #[test]
    fn json_means_the_same() {
        let value = serde_json::json!({"a\u{2028}": "\u{7f}\u{85}\u{202e}\n\u{1b}é"});
        let text = value.to_string();
        let safe = json(&text);
        assert!(!safe.contains(is_obeyed), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        let pretty = pretty_json(&value);
        assert!(!pretty.replace('\n', "").contains(is_obeyed) && pretty.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), value);
    }
}
