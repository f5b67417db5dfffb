//! The tables of docs/kernels.md: a row a kernel and types, a column a figure, and which way a
//! figure gets worse.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::figures::Figures;

/// A figure of a table, and how it compares where it is worse.
#[derive(Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    worse: Option<Ordering>,
    cell: fn(&Figures) -> String,
}

const MORE: Option<Ordering> = Some(Ordering::Greater);
const LESS: Option<Ordering> = Some(Ordering::Less);

const fn column(
    name: &'static str,
    worse: Option<Ordering>,
    cell: fn(&Figures) -> String,
) -> Column {
    Column { name, worse, cell }
}

/// What a kernel takes of a multiprocessor.
pub const TAKES: &[Column] = &[
    column("registers", MORE, |f| f.registers.to_string()),
    column("stack", MORE, |f| f.stack.to_string()),
    column("local", MORE, |f| f.local[0].to_string()),
    column("local in loops", MORE, |f| f.local[1].to_string()),
    column("shared", MORE, |f| f.shared.to_string()),
    column("threads", None, |f| f.threads.to_string()),
    column("blocks", LESS, |f| f.occupancy.blocks.to_string()),
    column("warps", LESS, |f| f.occupancy.warps.to_string()),
    column("limit", None, |f| f.occupancy.limit.to_owned()),
    column("loads", LESS, |f| widths(&f.loads)),
    column("stores", LESS, |f| widths(&f.stores)),
];

/// What its hot loop does.
pub const DOES: &[Column] = &[
    column("part", None, |f| if f.hot.is_loop { "loop" } else { "all" }.to_owned()),
    column("body", MORE, |f| f.hot.body.to_string()),
    column("instructions", MORE, |f| f.hot.instructions.to_string()),
    column("HMMA", None, |f| f.hot.hmma.to_string()),
    column("DMMA", None, |f| f.hot.dmma.to_string()),
    column("FMA", None, |f| f.hot.fma.to_string()),
    column("read", None, |f| f.hot.read.to_string()),
    column("written", None, |f| f.hot.written.to_string()),
    column("each MMA", MORE, |f| number(f.hot.each()[0])),
    column("each FMA", MORE, |f| number(f.hot.each()[1])),
    column("each byte", MORE, |f| number(f.hot.each()[2])),
    column("divisions", MORE, |f| f.hot.divisions.to_string()),
    column("divisions in loops", MORE, |f| f.divisions.iter().sum::<usize>().to_string()),
];

/// `128×16 32×14`: bits, and how many instructions move so many, the widest first.
fn widths(bytes: &[usize]) -> String {
    let some = [16, 8, 4, 2, 1].map(|width| (width, bytes.iter().filter(|&&b| b == width).count()));
    let some = some.into_iter().filter(|(_, n)| *n > 0);
    let all: Vec<String> = some.map(|(width, n)| format!("{}×{n}", 8 * width)).collect();
    if all.is_empty() { "–".to_owned() } else { all.join(" ") }
}

fn number(x: Option<f64>) -> String {
    x.map_or("–".to_owned(), |x| format!("{x:.2}"))
}

/// What a cell comes to: a number, or the mean width of some accesses. `None` of a word.
fn amount(cell: &str) -> Option<f64> {
    if !cell.contains('×') {
        return cell.parse().ok();
    }
    let (mut bits, mut accesses) = (0.0, 0.0);
    for (width, n) in cell.split(' ').filter_map(|part| part.split_once('×')) {
        let (width, n): (f64, f64) = (width.parse().ok()?, n.parse().ok()?);
        bits += width * n;
        accesses += n;
    }
    Some(bits / accesses)
}

/// A kernel's name: that of its file with types, and its own.
pub type Name = [String; 2];

/// A table as it stands in the page.
pub fn write(columns: &[Column], kernels: &[(Name, Figures)]) -> String {
    let names = ["file", "kernel"].into_iter().chain(columns.iter().map(|c| c.name));
    let mut table = format!("| {} |\n", names.clone().collect::<Vec<_>>().join(" | "));
    writeln!(table, "|{}", " --- |".repeat(names.count())).unwrap();
    for ([file, kernel], figures) in kernels {
        let cells: Vec<String> = columns.iter().map(|c| (c.cell)(figures)).collect();
        writeln!(table, "| {file} | {kernel} | {} |", cells.join(" | ")).unwrap();
    }
    table
}

/// The cells of a row of the page's tables.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect()
}

/// Figures of a table that are worse than they were: kernel, figure, what it was and what it is.
pub fn worse(columns: &[Column], was: &str, is: &str) -> Vec<String> {
    let rows = |table| str::lines(table).skip(2).map(cells);
    let mut found = Vec::new();
    for now in rows(is) {
        // What is new is worse than nothing.
        let Some(before) = rows(was).find(|before| before[..2] == now[..2]) else { continue };
        for (i, column) in columns.iter().enumerate() {
            let (was, is) = (before.get(i + 2).copied().unwrap_or_default(), now[i + 2]);
            let order = amount(is).zip(amount(was)).and_then(|(is, was)| is.partial_cmp(&was));
            if order.is_some() && order == column.worse {
                found.push(format!("{} {}: {} was {was}, is {is}", now[0], now[1], column.name));
            }
        }
    }
    found
}

#[test]
fn what_is_worse_is_named() {
    let columns = [TAKES, DOES].concat();
    let of = |cells: &[(&str, &str)]| {
        let cell = |c: &Column| cells.iter().find(|(name, _)| *name == c.name).map_or("7", |c| c.1);
        let row: Vec<&str> = columns.iter().map(cell).collect();
        format!("| file | kernel |\n| --- |\n| act.bf16 | act_fwd | {} |\n", row.join(" | "))
    };
    let was = of(&[("loads", "128×4 16×1")]);
    let now = |column, cell| worse(&columns, &was, &of(&[("loads", "128×4 16×1"), (column, cell)]));
    assert!(now("registers", "7").is_empty() && now("registers", "6").is_empty());
    assert_eq!(now("registers", "8"), ["act.bf16 act_fwd: registers was 7, is 8"]);
    assert_eq!(now("warps", "6"), ["act.bf16 act_fwd: warps was 7, is 6"]);
    assert_eq!(now("each FMA", "7.1"), ["act.bf16 act_fwd: each FMA was 7, is 7.1"]);
    assert!(now("HMMA", "9").is_empty() && now("limit", "blocks").is_empty());
    let narrow = worse(&columns, &was, &of(&[("loads", "128×4 16×2")]));
    assert_eq!(narrow, ["act.bf16 act_fwd: loads was 128×4 16×1, is 128×4 16×2"]);
    assert!(worse(&columns, &was, &was.replace("act_fwd", "act_new")).is_empty());
}
