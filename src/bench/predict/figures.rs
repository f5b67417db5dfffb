//! Figures of our kernels' machine code, from the tables of docs/kernels.md, which a test holds to
//! the code.

const TABLES: &str = include_str!("../../../docs/kernels.md");

/// The figure in a column of a kernel's row: its file with the types it was compiled for
/// (`act.bf16`), and its name.
///
/// # Panics
///
/// Where no table has it.
pub fn figure(file: &str, kernel: &str, column: &str) -> f64 {
    let found = cell(file, kernel, column).and_then(|text| text.parse().ok());
    found.unwrap_or_else(|| panic!("docs/kernels.md: no `{column}` of {file} {kernel}"))
}

fn cell(file: &str, kernel: &str, column: &str) -> Option<&'static str> {
    let mut at = None;
    for line in TABLES.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells[..] {
            ["file", ..] => at = cells.iter().position(|cell| *cell == column),
            [f, k, ..] if (f, k) == (file, kernel) => {
                if let Some(cell) = at.and_then(|at| cells.get(at)) {
                    return Some(cell);
                }
            }
            _ => {}
        }
    }
    None
}
