//! Whether a subject found in a prompt is a word of its own there.

/// Whether the text at bytes `start..end` is neither the beginning nor the end nor the middle of a
/// longer word: `Rome` is not in `Romeo`, and `Apollo 1` not in `Apollo 11`.
///
/// Only letters and digits join, so `Rome's`, `Rome-based` and `Rome_2` are fine; and only those
/// of scripts that put spaces between words and join nothing to a name. Chinese, Japanese and Thai
/// write words without spaces, Korean joins particles to names, Arabic and Hebrew prefixes.
pub(super) fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let (before, after) = (&text[..start], &text[end..]);
    let inside = &text[start..end];
    let joined = |a: Option<char>, b: Option<char>| a.is_some_and(joins) && b.is_some_and(joins);
    !joined(before.chars().next_back(), inside.chars().next())
        && !joined(inside.chars().next_back(), after.chars().next())
}

/// Of the Latin, Greek, Cyrillic and Armenian scripts, and the accents that follow their letters.
fn joins(c: char) -> bool {
    let accent = ('\u{300}'..='\u{36F}').contains(&c);
    accent || c.is_alphanumeric() && (c < '\u{590}' || ('\u{1E00}'..='\u{1FFF}').contains(&c))
}
