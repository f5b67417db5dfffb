//! Where a model's answer begins.
//!
//! A template ends the prompt with the answer's opening, and in a finished chat puts the answer
//! behind its opening. Where the two differ, an answer does not begin at the prompt's end:
//!
//! ```text
//! prompt    … user: M  assistant:                          tail
//! finished  … user: M  assistant: <think> </think> A       what stands between M and A
//! ```
//!
//! The model would say what stands between by itself, at length; or the prompt opens a block that
//! the answer comes after.

use std::collections::BTreeMap;

use serde_json::Value;

use super::chat::{Chat, MARK};
use crate::base::Remedy;

/// A stand-in for the answer.
const ANSWER: &str = "\u{E001}";
/// Variables by which templates leave out what a model thinks before its answer.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

impl Chat {
    /// Why an answer does not begin where the prompt ends, and what helps; nothing where it does,
    /// or where the template does not tell.
    pub fn late_answer(&self) -> Option<(String, Remedy)> {
        let text = self.before_answer(&self.settings.variables)?;
        let why = format!(
            "the model's answers do not begin where the chat template ends the prompt: {text:?} \
             stands between, so what is edited is not how an answer begins"
        );
        let helps = |name: &&str| {
            let mut variables = self.settings.variables.clone();
            variables.insert((*name).to_owned(), Value::Bool(false));
            self.before_answer(&variables).is_none()
        };
        let remedy = match SWITCHES.into_iter().find(helps) {
            Some(name) => Remedy::from("edit answers that are given without thinking")
                .option("template_var", Some(&format!("{name}=false"))),
            None => Remedy::from("see what the edited model answers, or edit without the template")
                .option("chat", Some("false")),
        };
        Some((why, remedy))
    }

    /// What stands between the prompt's end and an answer, or is still open there.
    fn before_answer(&self, variables: &BTreeMap<String, Value>) -> Option<String> {
        let prompt = self.render_with(MARK, None, variables).ok()?;
        let finished = self.render_with(MARK, Some(ANSWER), variables).ok()?;
        let (_, tail) = prompt.split_once(MARK)?;
        let (_, after) = finished.split_once(MARK)?;
        let (between, _) = after.split_once(ANSWER)?;
        let same = tail.char_indices().zip(between.chars()).find(|((_, a), b)| a != b);
        let same = same.map_or(tail.len().min(between.len()), |((at, _), _)| at);
        match (between[same..].trim(), tail[same..].trim()) {
            (text, "") if !text.is_empty() => Some(text.to_owned()),
            ("", text) if is_open(text) => Some(text.to_owned()),
            _ => None,
        }
    }
}

/// Whether the last tag of a text, as `<think>` or `[THINK]`, opens a block.
fn is_open(text: &str) -> bool {
    text.rfind(['<', '[']).is_some_and(|at| !text[at + 1..].starts_with('/'))
}
