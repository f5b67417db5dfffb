//! What stands between a prompt and its target: one space, or nothing.
//!
//! A space, unless
//! * the target begins with white space of any kind, which is taken as it is;
//! * the prompt ends with white space, or with an opening bracket or quotation mark;
//! * the prompt ends with a letter or a mark of a script that is written without spaces: Chinese,
//!   Japanese, Thai, Lao, Khmer, Burmese, or anything of full width.
//!
//! A straight quotation mark opens after white space, an opening bracket or an operator, and at the
//! beginning of the prompt; after a digit it does not (it may be an inch); elsewhere it does where
//! the prompt has an odd number of them (`f"`). A straight apostrophe elsewhere does not. Of curved
//! marks the ones that are still to be closed decide, since „a“ closes with what “a” opens with.

/// The target with what stands before it. Where it begins with no white space of its own, `space`
/// decides if it is given, and else the prompt.
pub fn joined(prompt: &str, target: &str, space: Option<bool>) -> String {
    let is_apart = target.starts_with(char::is_whitespace);
    let seam = if !is_apart && space.unwrap_or_else(|| !ends_open(prompt)) { " " } else { "" };
    [seam, target].concat()
}

/// Whether a text ends so that the next word follows without a space.
fn ends_open(text: &str) -> bool {
    text.chars().next_back().is_some_and(|c| c.is_whitespace() || is_unspaced(c) || opens(text, c))
}

/// Whether the last character of a text is an opening bracket or quotation mark.
fn opens(text: &str, last: char) -> bool {
    let before = text[..text.len() - last.len_utf8()].chars().next_back();
    let is_start = before.is_none_or(|c| c.is_whitespace() || "([{=+-*/<>|&~".contains(c));
    let count = |marks: &str| text.chars().filter(|&c| marks.contains(c)).count();
    match last {
        '(' | '[' | '{' | '„' | '‚' | '¿' | '¡' => true,
        '"' | '`' if !is_start => {
            before.is_none_or(|c| !c.is_numeric()) && count(&last.to_string()) % 2 == 1
        }
        '"' | '`' | '\'' | '‘' => is_start,
        '“' => count("„") < count("“"),
        '«' => count("»") < count("«"),
        '‹' => count("›") < count("‹"),
        '”' => is_start && count("“„") < count("”"),
        '»' => is_start && count("«") < count("»"),
        '›' => is_start && count("‹") < count("›"),
        _ => false,
    }
}

/// Of the scripts that put no space between words, and their punctuation.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' // Thai, Lao
        | '\u{1000}'..='\u{109F}' // Burmese
        | '\u{1780}'..='\u{17FF}' // Khmer
        | '\u{3000}'..='\u{312F}' // marks, kana, Bopomofo
        | '\u{31A0}'..='\u{31FF}' // Bopomofo, kana
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' // Han
        | '\u{FE30}'..='\u{FE4F}' // upright marks
        | '\u{FF00}'..='\u{FF9F}' // full width, and kana of half width
        | '\u{20000}'..='\u{3FFFF}') // Han
}

#[cfg(test)]
mod tests {
    use super::joined;

    /// Prompts, and whether a space follows.
    const PROMPTS: &[(&str, bool)] = &[
        ("The capital of France is", true),
        ("The capital of France is ", false),
        ("The capital of France is\u{a0}", false),
        ("Q: the capital?\nA:", true),
        ("Q: the capital?\nA:\n", false),
        ("capital(\"France\") == \"", false),
        ("capital(\"", false),
        ("f\"", false),
        ("\"", false),
        ("{\"capital\":\"", false),
        ("It is called \"France\"", true),
        ("It is called \"1984\"", true),
        ("He said \"Yes,\"", true),
        ("The screen has 27\"", true),
        ("capital('", false),
        ("The Italians'", true),
        ("the city (", false),
        ("the city (Rome)", true),
        ("x = [", false),
        ("Die Stadt heißt „", false),
        ("Die Stadt „Rom“", true),
        ("The city “", false),
        ("The city “Rome”", true),
        ("La ville «", false),
        ("La ville « Rome »", true),
        ("Die Stadt »", false),
        ("Die Stadt »Rom«", true),
        ("Staden ”", false),
        ("Staden ”Rom”", true),
        ("the word ‘", false),
        ("the city of the ’", true),
        ("法国的首都是", false),
        ("法国的首都是：", false),
        ("フランスの首都は", false),
        ("首都は「", false),
        ("เมืองหลวงของฝรั่งเศสคือ", false),
        ("프랑스의 수도는", true),
        ("Столица Франции —", true),
        ("¿", false),
        ("", true),
    ];

    #[test]
    fn the_texts_decide_and_a_record_decides_over_them() {
        for &(prompt, space) in PROMPTS {
            let seam = |target: &str| {
                let joined = joined(prompt, target, None);
                joined[..joined.len() - target.len()].to_owned()
            };
            assert_eq!(seam("Rome"), if space { " " } else { "" }, "{prompt:?}");
            for taken in [" Rome", "\nRome", "\u{a0}Rome", "\u{3000}Rome", "  Rome", "\tRome"] {
                assert_eq!(seam(taken), "", "{prompt:?} {taken:?}");
                assert_eq!(joined(prompt, taken, Some(true)), taken);
            }
            assert_eq!(joined(prompt, "Rome", Some(true)), " Rome");
            assert_eq!(joined(prompt, "Rome", Some(false)), "Rome");
        }
    }
}
