//! `--memory 8G`, and what this machine has to spare.

/// What is taken where the machine does not say what it has.
const MODEST: u64 = 4 << 30;

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

/// Half of the memory that is free now.
pub fn spare() -> u64 {
    kilobytes("/proc/meminfo", "MemAvailable:").map_or(MODEST, |kb| kb * 1024 / 2)
}

/// The most bytes this process had in memory since this was asked last, files it maps included; 0
/// where the system does not say.
pub fn peak() -> u64 {
    let peak = kilobytes("/proc/self/status", "VmHWM:").unwrap_or(0) * 1024;
    let _ = std::fs::write("/proc/self/clear_refs", "5"); // begins anew
    peak
}

fn kilobytes(file: &str, field: &str) -> Option<u64> {
    let said = std::fs::read_to_string(file).ok()?;
    let line = said.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
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
        assert!(spare() > 0);
    }
}
