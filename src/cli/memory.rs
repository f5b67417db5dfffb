//! `--memory 8G`.

/// Bytes a user names: `512M`, `8G`, `1.5G`, plain bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = match text.trim_end_matches(['B', 'b', 'i']).char_indices().last() {
        Some((i, letter)) if letter.is_ascii_alphabetic() => {
            (&text[..i], letter.to_ascii_uppercase())
        }
        _ => (text, ' '),
    };
    let shift = match unit {
        ' ' => 0,
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return Err(format!("`{text}` is not a size: say 512M or 8G")),
    };
    let number = number.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
    let bytes = number.map(|n| n * (1u64 << shift) as f64).filter(|b| *b >= 1.0);
    bytes.map(|b| b as u64).ok_or_else(|| format!("`{text}` is not a size: say 512M or 8G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("1000"), Ok(1000));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("8G"), Ok(8 << 30));
        assert_eq!(parse("8 GiB"), Ok(8 << 30));
        assert_eq!(parse("1.5k"), Ok(1536));
        for bad in ["", "G", "-1", "0", "8X", "1e400", "nan"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
