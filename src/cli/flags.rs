//! A remedy's settings as they are given on the command line.

use crate::base::remedy::{Remedy, Setting, SettingKind};

/// ` (--set emmet_lambda=0.1)`; nothing where the remedy is in its words alone.
pub fn flags(remedy: &Remedy) -> String {
    let operation = remedy.operation.map(|operation| format!("`incise {}`", operation.command()));
    let settings = remedy.settings.iter().map(flag);
    let all: Vec<String> = operation.into_iter().chain(settings).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(" or ")) }
}

fn flag(setting: &Setting) -> String {
    let Setting { kind, name, value } = setting;
    if *kind == SettingKind::Hyperparameter {
        let assignment = format!("{name}={}", value.as_deref().unwrap_or("…"));
        return format!("--set {}", quoted(&assignment));
    }
    let flag = match &name[..] {
        "statistics" => "--stats".to_owned(),
        "output" => "-o".to_owned(),
        name => format!("--{}", name.replace('_', "-")),
    };
    match value.as_deref() {
        Some("true") => flag,
        Some("false") => format!("without {flag}"),
        Some(value) => format!("{flag} {}", quoted(value)),
        None => format!("{flag} {}", placeholder(name)),
    }
}

/// What stands for a value that the user knows.
fn placeholder(option: &str) -> &'static str {
    match option {
        "memory" => "SIZE",
        "statistics" | "output" | "editor" => "DIR",
        "hparams" | "contexts" | "state" | "delta" | "with" | "requests" => "FILE",
        "template_var" => "NAME=VALUE",
        "system" => "TEXT",
        _ => "N",
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-+./:,=…".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::base::remedy::Operation;

    #[test]
    fn settings_are_flags() {
        let rendered = |remedy: Remedy| flags(&remedy);
        let words = || Remedy::from("words");
        assert_eq!(rendered(words()), "");
        let set = |name, value| rendered(words().hyperparameter(name, value));
        assert_eq!(set("emmet_lambda", Some("0.1")), " (--set emmet_lambda=0.1)");
        assert_eq!(set("layers", Some("[5, 6]")), " (--set 'layers=[5, 6]')");
        assert_eq!(set("L2", None), " (--set L2=…)");
        let option = |name, value| rendered(words().option(name, value));
        assert_eq!(option("statistics", None), " (--stats DIR)");
        assert_eq!(option("on_conflict", Some("last")), " (--on-conflict last)");
        assert_eq!(option("chat", Some("false")), " (without --chat)");
        assert_eq!(option("output", None), " (-o DIR)");
        let both = words().option("device", Some("cpu")).operation(Operation::Doctor);
        assert_eq!(rendered(both), " (`incise doctor` or --device cpu)");
        let full = Error::DeviceMemory { wanted: 3, used: 2, limit: 4 }.remedy().unwrap();
        assert_eq!(rendered(full), " (--memory SIZE or --device cpu)");
    }
}
