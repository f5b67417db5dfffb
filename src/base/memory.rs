//! What this machine has to spare, and what this process took.

/// What is taken where the machine does not say what it has.
const MODEST: u64 = 4 << 30;

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
