//! The methods, one a file. To add one: its file, its `mod` line and its entry in [`METHODS`].

pub mod alphaedit;
pub mod betaedit;
pub mod calinet;
pub mod emmet;
pub mod encore;
pub mod fine_tuning;
pub mod grace;
pub mod ike;
pub mod ke;
pub mod kn;
pub mod memit;
pub mod mend;
pub mod pmet;
pub mod rome;
pub mod serac;
pub mod t_patcher;
pub mod ultraedit;

use super::method::{About, Method};
use super::params::{Param, Params};
use super::public_config;
use crate::base::{Error, Remedy, Result};
use crate::model::arch::Arch;

/// All methods, in the order in which they are listed.
pub static METHODS: [&dyn Method; 20] = [
    &rome::ROME,
    &rome::R_ROME,
    &memit::MEMIT,
    &emmet::EMMET,
    &pmet::PMET,
    &alphaedit::ALPHAEDIT,
    &encore::ENCORE,
    &betaedit::BETAEDIT,
    &ultraedit::ULTRAEDIT,
    &fine_tuning::FT_L,
    &fine_tuning::FT_M,
    &fine_tuning::LOCFT_BF,
    &grace::GRACE,
    &kn::KN,
    &ike::IKE,
    &t_patcher::T_PATCHER,
    &calinet::CALINET,
    &mend::MEND,
    &ke::KE,
    &serac::SERAC,
];

/// A method by the name users give, in capitals or not.
///
/// # Errors
///
/// No method of that name; those there are, are listed.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    let found = METHODS.into_iter().find(|method| method.about().name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let names = METHODS.map(|method| method.about().name).join(", ");
        let what = format!("`{name}` is not a method of this version");
        let remedy = Remedy::from(format!("use one of {names}"));
        Error::refused(what, remedy.option("method", None))
    })
}

/// The methods that edit a layer of a model of this architecture.
pub fn that_edit(arch: &Arch) -> impl Iterator<Item = &'static dyn Method> {
    let edits = |method: &&'static dyn Method| {
        method.check_model(&Params::of_one_layer(method.params()), arch).is_ok()
    };
    METHODS.into_iter().filter(edits)
}

/// The table of methods and their parameters, as the documentation has it.
pub fn markdown() -> String {
    let mut text = String::from("| method | does | paper | facts | changes | needs |\n");
    text += "| --- | --- | --- | --- | --- | --- |\n";
    for method in METHODS {
        let About { name, summary, paper, changes, needs, .. } = method.about();
        let facts = method.batching().words();
        text += &format!("| `{name}` | {summary} | {paper} | {facts} | {changes} | {needs} |\n");
    }
    for method in METHODS {
        text += &format!("\n## {}\n\n", method.about().name);
        text += "| parameter | does | takes | where it is not given |\n| --- | --- | --- | --- |\n";
        for Param { name, kind, absent, about } in method.params() {
            let takes = kind.words();
            let absent = absent.words();
            text += &format!("| `{name}` | {about} | {takes} | {absent} |\n");
        }
    }
    text += "\n## What else config files say\n\n";
    text += "Parameters have the names of ROME, MEMIT and EasyEdit config files. Other names in ";
    text += "them:\n\n";
    text + &public_config::markdown()
}
