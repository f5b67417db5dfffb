//! A case: facts that are edited together, and all that they are measured by.
//!
//! ```text
//! role           asks                                         its right answers
//! paraphrase     a fact in other words                        the new target, as for all its kinds
//! neighbourhood  the relation of other subjects               the old target, which they share
//! attribute      subjects of which the new target is true     the new target
//! generation     nothing: the model goes on freely            –
//! portability    what follows from the new facts              hold after the edit
//! locality       what the edit has nothing to do with         hold before and after
//! ```
//!
//! A fact's own prompt is in [`Fact`] and is no probe.

use super::fact::{Continuation, Fact};
use crate::base::Result;

/// The form that a record is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Our own.
    Native,
    /// CounterFact (Meng et al. 2022, arXiv:2202.05262), with or without the additions of EasyEdit.
    CounterFact,
    /// zsRE as MEND has it (Mitchell et al. 2022, arXiv:2110.11309).
    Zsre,
    /// EasyEdit's records and KnowEdit's (Zhang et al. 2024, arXiv:2401.01286).
    EasyEdit,
    /// QAEdit of WILD (Yang et al. 2025, arXiv:2502.11177).
    QaEdit,
    /// WikiBigEdit (Thede et al. 2025, arXiv:2503.05683).
    WikiBigEdit,
    /// MQuAKE (Zhong et al. 2023, arXiv:2305.14795).
    Mquake,
    /// Prompts and questions with answers (Gupta et al. 2024, arXiv:2403.14236).
    Qna,
}

impl Form {
    /// What results call it.
    pub fn name(self) -> &'static str {
        match self {
            Form::Native => "incise",
            Form::CounterFact => "counterfact",
            Form::Zsre => "zsre",
            Form::EasyEdit => "easyedit",
            Form::QaEdit => "qaedit",
            Form::WikiBigEdit => "wikibigedit",
            Form::Mquake => "mquake",
            Form::Qna => "qna",
        }
    }
}

/// What a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A fact in other words.
    Paraphrase,
    /// The same relation of other subjects, of which the old target is true.
    Neighbourhood,
    /// The same relation of subjects of which the new target is true.
    Attribute,
    /// A prompt about the subject from which the model goes on freely.
    Generation,
    /// What follows from the new facts.
    Portability,
    /// What the edit has nothing to do with.
    Locality,
}

impl Role {
    /// What results call it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Paraphrase => "paraphrase",
            Role::Neighbourhood => "neighbourhood",
            Role::Attribute => "attribute",
            Role::Generation => "generation",
            Role::Portability => "portability",
            Role::Locality => "locality",
        }
    }
}

/// A prompt that measures an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it asks for.
    pub role: Role,
    /// Which of its role's kinds it is, in the spelling of [`KINDS`](super::kinds::KINDS); empty
    /// where the source does not say.
    pub kind: String,
    /// The index of the fact it is about in [`Case::facts`].
    pub fact: usize,
    /// The whole prompt.
    pub prompt: String,
    /// The right answers, each with its spellings, of which none is blank. Several where the
    /// question asks for several, as for siblings; none where it is not known.
    pub answers: Vec<Vec<String>>,
    /// What was right before the edit, in all its spellings; empty where the source does not say,
    /// or where it is the same.
    pub before: Vec<String>,
}

impl Probe {
    /// A probe about a case's first fact, of no particular kind and without an answer.
    pub(super) fn new(role: Role, prompt: impl Into<String>) -> Probe {
        let (kind, prompt) = (String::new(), prompt.into());
        Probe { role, kind, fact: 0, prompt, answers: vec![], before: vec![] }
    }

    pub(super) fn kind(self, kind: &str) -> Probe {
        Probe { kind: kind.to_owned(), ..self }
    }

    /// With one right answer, if it is known.
    pub(super) fn answer(self, answer: Option<String>) -> Probe {
        self.spelt(Vec::from_iter(answer))
    }

    /// With one right answer in all its spellings.
    pub(super) fn spelt(self, spellings: Vec<String>) -> Probe {
        let answers = if spellings.is_empty() { vec![] } else { vec![spellings] };
        Probe { answers, ..self }
    }

    /// The first spelling of the first right answer.
    pub fn target(&self) -> Option<&str> {
        self.answers.first()?.first().map(String::as_str)
    }

    /// `portability.reasoning`, or the role alone where the kind is not known.
    pub fn key(&self) -> String {
        match &self.kind[..] {
            "" => self.role.name().to_owned(),
            kind => format!("{}.{kind}", self.role.name()),
        }
    }
}

/// One step of a chain of facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// It, as a question.
    pub question: String,
    /// It, as a text to go on with.
    pub cloze: String,
    /// Wikidata's property, which chooses MQuAKE's demonstrations.
    pub relation: Option<String>,
    /// The right answer in all its spellings, of which there is at least one.
    pub answers: Vec<String>,
}

/// What the source says of a fact that no edit needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Background {
    /// Wikidata's property.
    pub relation: Option<String>,
    /// Wikidata's item for the new target.
    pub target_new_id: Option<String>,
    /// Wikidata's item for the old target.
    pub target_true_id: Option<String>,
    /// Other spellings of the old target.
    pub true_aliases: Vec<String>,
}

/// Facts that are edited together, and all that they are measured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Unique in its file: the record's own, else its index from 0.
    pub id: String,
    /// The form of its record.
    pub form: Form,
    /// What is edited. Their own lists of prompts are empty; [`requests`](Case::requests) has them.
    pub facts: Vec<Fact>,
    /// What else is known of each of the facts.
    pub background: Vec<Background>,
    /// What measures them, in the order of the record.
    pub probes: Vec<Probe>,
    /// The chain that a question over several facts follows after the edit.
    pub hops: Vec<Hop>,
    /// The one it followed before.
    pub old_hops: Vec<Hop>,
}

impl Case {
    /// The probes of a role.
    pub fn role(&self, role: Role) -> impl Iterator<Item = &Probe> {
        self.probes.iter().filter(move |probe| probe.role == role)
    }

    /// The facts with the prompts that measure them, as [`read`](super::request::read) gives them.
    pub fn requests(&self) -> Vec<Fact> {
        let mut facts = self.facts.clone();
        for probe in &self.probes {
            add(&mut facts[probe.fact], probe);
        }
        facts
    }
}

/// Machine-written paraphrases, which requests do not hold.
pub(super) const MACHINE_WRITTEN: &str = "machine_written";

/// Adds a probe to the lists of its fact. What lists had no place for when digests of requests were
/// first written is left out, so that those digests hold.
fn add(fact: &mut Fact, probe: &Probe) {
    let list = match probe.role {
        Role::Paraphrase if probe.kind == MACHINE_WRITTEN => return,
        Role::Attribute | Role::Generation => return,
        Role::Paraphrase => return fact.paraphrases.push(probe.prompt.clone()),
        Role::Neighbourhood => &mut fact.neighbourhood,
        Role::Portability => &mut fact.portability,
        Role::Locality => &mut fact.locality,
    };
    list.push(Continuation::new(probe.prompt.clone(), probe.target().map(str::to_owned)));
}

/// A fact of a record and what is known of it, or why there is none, and the id that the record
/// gives it.
pub(super) type Read = (Option<String>, Result<(Fact, Background)>);

/// A record as its form's reader leaves it.
pub(super) struct Draft {
    pub facts: Vec<Read>,
    pub probes: Vec<Probe>,
    pub hops: Vec<Hop>,
    pub old_hops: Vec<Hop>,
}

impl Draft {
    /// A record of one fact.
    pub fn new(own_id: Option<String>, fact: (Fact, Background), probes: Vec<Probe>) -> Draft {
        Draft { facts: vec![(own_id, Ok(fact))], probes, hops: vec![], old_hops: vec![] }
    }

    /// The case: an error where any of its facts is one.
    pub fn case(self, id: String, form: Form) -> Result<Case> {
        let Draft { facts, probes, hops, old_hops } = self;
        let facts: Result<Vec<_>> = facts.into_iter().map(|(_, fact)| fact).collect();
        let (facts, background) = facts?.into_iter().unzip();
        Ok(Case { id, form, facts, background, probes, hops, old_hops })
    }

    /// The facts with the prompts that measure them; one that is broken spoils none of the others.
    pub fn requests(self) -> Vec<(Option<String>, Result<Fact>)> {
        let without = |(id, read): Read| (id, read.map(|(fact, _)| fact));
        let mut facts: Vec<_> = self.facts.into_iter().map(without).collect();
        for probe in &self.probes {
            if let (_, Ok(fact)) = &mut facts[probe.fact] {
                add(fact, probe);
            }
        }
        facts
    }
}
