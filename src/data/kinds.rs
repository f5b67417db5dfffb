//! The kinds of probes that the field tells apart, and how files spell them.

use super::case::Role;

/// A kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What its probes ask for.
    pub role: Role,
    /// What results call it.
    pub name: &'static str,
    /// What files call it where that is not its name in another case.
    pub spellings: &'static [&'static str],
    /// What its probes are.
    pub about: &'static str,
}

const fn kind(
    role: Role,
    name: &'static str,
    spellings: &'static [&'static str],
    about: &'static str,
) -> Kind {
    Kind { role, name, spellings, about }
}

/// The kinds that are known. Files may name others, which are kept.
pub const KINDS: &[Kind] = &[
    kind(Role::Paraphrase, "question", &[], "a statement as a question (MQuAKE, Gupta et al.)"),
    kind(Role::Paraphrase, "persona", &[], "in the voice of somebody (WikiBigEdit)"),
    kind(Role::Paraphrase, "machine_written", &["generate_prompt"], "a numbered list (KnowEdit)"),
    kind(Role::Portability, "subject_aliasing", &[], "another name of the subject (RippleEdits)"),
    kind(Role::Portability, "reasoning", &[], "the new fact and one more (KnowEdit)"),
    kind(Role::Portability, "logical_generalization", &[], "what is implied (RippleEdits)"),
    kind(Role::Portability, "one_hop", &[], "the new fact and one more (Yao et al. 2023)"),
    kind(Role::Portability, "subject_replace", &[], "another name of the subject (Yao et al.)"),
    kind(Role::Portability, "inverse_relation", &[], "from object to subject (Yao et al.)"),
    kind(Role::Portability, "multi_hop", &["mhop"], "a chain of facts (MQuAKE, WikiBigEdit)"),
    kind(
        Role::Locality,
        "relation_specificity",
        &[],
        "the subject's other relations (RippleEdits)",
    ),
    kind(Role::Locality, "forgetfulness", &[], "the relation's other objects (RippleEdits)"),
    kind(Role::Locality, "other_attribution", &[], "the subject's other relations (Yao et al.)"),
    kind(
        Role::Locality,
        "distracting_neighbour",
        &["distracting", "distracting_neighbor"],
        "a neighbour behind the new fact (Hoelscher-Obermaier et al. 2023)",
    ),
    kind(Role::Locality, "neighbourhood", &["neighborhood"], "another subject (EasyEdit)"),
    kind(Role::Locality, "unrelated", &["loc"], "a question about something else (MEND, WILD)"),
];

/// What results call a kind that a file calls `spelling`: its name in [`KINDS`], else the spelling
/// in small letters, with `_` between its words.
pub fn name(role: Role, spelling: &str) -> String {
    let words: Vec<&str> =
        spelling.split([' ', '-', '_']).filter(|word| !word.is_empty()).collect();
    let plain = words.join("_").to_lowercase();
    let known = KINDS.iter().find(|k| k.role == role && k.spellings.contains(&plain.as_str()));
    known.map_or(plain, |kind| kind.name.to_owned())
}
