//! Quantities as people read them.

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|g| std::str::from_utf8(g).expect("digits are ASCII"))
        .collect();
    groups.join(",")
}

/// `1 fact`, `1,234 facts`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A number with three significant digits and a metric prefix: `8.45 M`.
pub fn metric(n: f64) -> String {
    let (value, prefix) = match n {
        n if n >= 1e12 => (n / 1e12, " T"),
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e3 => (n / 1e3, " k"),
        n => (n, " "),
    };
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    format!("{value:.digits$}{prefix}")
}

/// A time: `1,330 s`, `2.00 s`, `1.25 ms`, `3.0 µs`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s >= 999.995 => format!("{} s", count(s.round() as u64)),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", 1e3 * s),
        s => format!("{:.1} µs", 1e6 * s),
    }
}

/// How many times: `3.2`, `1e9` where digits would say no more.
pub fn times(ratio: f64) -> String {
    if ratio >= 1e4 { format!("{ratio:.0e}") } else { format!("{ratio:.1}") }
}

/// A part as a percentage with as many digits as say something: `0.13 %`, `96 %`, `3e9 %`.
pub fn percent(part: f64) -> String {
    let p = 100.0 * part;
    if p >= 1e5 {
        return format!("{p:.0e} %");
    }
    let digits =
        if p >= 99.95 || p == 0.0 { 0 } else { usize::from(p < 10.0) + usize::from(p < 1.0) };
    if p > 0.0 && p < 0.01 { format!("{p:.0e} %") } else { format!("{p:.digits$} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "fact"), "1 fact");
        assert_eq!(counted(2000, "fact"), "2,000 facts");
        assert_eq!(metric(8_451_072.0), "8.45 M");
        assert_eq!(metric(124e6), "124 M");
        assert_eq!(metric(12.0), "12.0 ");
        assert_eq!(percent(0.5), "50 %");
        assert_eq!(percent(0.0123), "1.2 %");
        assert_eq!(percent(0.00123), "0.12 %");
        assert_eq!(percent(1e-7), "1e-5 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(123.4), "12340 %");
        assert_eq!(percent(3.4e30), "3e32 %");
        assert_eq!(percent(f64::INFINITY), "inf %");
        assert_eq!(times(3.21), "3.2");
        assert_eq!(times(3.4e30), "3e30");
    }
}
