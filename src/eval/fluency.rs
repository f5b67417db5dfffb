//! Whether text that a model writes says something, and something of its subject.
//!
//! ```text
//! H_n            −Σ f log₂ f over the frequencies f of a text's n-grams of words
//! entropy        (2/3 H₂ + 4/3 H₃) / 2                           a model that loops has little
//! consistency    cosine of TF-IDF(all texts) and TF-IDF(what is written of the new target)
//!   idf          ln((1 + n)/(1 + df)) + 1 over n snippets, of words of two letters or more
//! ```
//!
//! Words are the Penn Treebank's, punctuation too, as NLTK has them; a full stop is one at the end
//! of a sentence, which here ends where white space and a capital, a digit or a quotation mark
//! follow, and not after an initial or a usual abbreviation (NLTK's Punkt learns which are).
//!
//! Source: ROME's evaluation (Meng et al. 2022, arXiv:2202.05262).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use fancy_regex::Regex;

use crate::data::Snippets;

/// Substitutions in their order. Quotation marks that open, punctuation, brackets; then those that
/// close, and words that are two.
const OPENING: &[(&str, &str)] = &[
    (r"([«“‘„]|`+)", " $1 "),
    (r#"^""#, "``"),
    (r"(``)", " $1 "),
    (r#"([ (\[{<])("|'')"#, "$1 `` "),
    (r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", "$1 $2"),
    (r#"([^.])(\.)([\])}>"'»”’ ]*)\s*$"#, "$1 $2 $3 "),
    (r"([:,])([^\d])", " $1 $2"),
    (r"([:,])$", " $1 "),
    (r"(\.{2,})", " $1 "),
    (r"([;@#$%&])", " $1 "),
    (r"([?!])", " $1 "),
    (r"([^'])' ", "$1 ' "),
    (r"([*])", " $1 "),
    (r"([\]\[(){}<>])", " $1 "),
    (r"--", " -- "),
];
const CLOSING: &[(&str, &str)] = &[
    (r"([»”’])", " $1 "),
    (r"''", " '' "),
    (r#"""#, " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
    (r"(?i)\b(can)(not)\b", " $1 $2 "),
    (r"(?i)\b(d)('ye)\b", " $1 $2 "),
    (r"(?i)\b(gim|lem)(me)\b", " $1 $2 "),
    (r"(?i)\b(gon)(na)\b", " $1 $2 "),
    (r"(?i)\b(got)(ta)\b", " $1 $2 "),
    (r"(?i)\b(more)('n)\b", " $1 $2 "),
    (r"(?i)\b(wan)(na)\s", " $1 $2 "),
    (r"(?i) ('t)(is|was)\b", " $1 $2 "),
];

/// Words whose full stop ends no sentence.
const ABBREVIATIONS: [&str; 24] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "u.s", "inc",
    "ltd", "co", "corp", "no", "vol", "gen", "col", "capt", "lt", "sgt",
];

type Compiled = Vec<(Regex, &'static str)>;

static RULES: LazyLock<[Compiled; 2]> = LazyLock::new(|| {
    let compile = |&(pattern, by): &(&str, &'static str)| {
        (Regex::new(pattern).expect("a pattern of the table"), by)
    };
    [OPENING, CLOSING].map(|rules| rules.iter().map(compile).collect())
});

/// The words of a text, punctuation too.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for sentence in sentences(text) {
        let apply = |text: String, rules: &Compiled| {
            rules.iter().fold(text, |text, (rule, by)| rule.replace_all(&text, *by).into_owned())
        };
        let opened = apply(sentence.to_owned(), &RULES[0]);
        let closed = apply(format!(" {opened} "), &RULES[1]);
        words.extend(closed.split_whitespace().map(str::to_owned));
    }
    words
}

/// The sentences of a text.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let marks: Vec<(usize, char)> = text.char_indices().collect();
    for (i, &(at, mark)) in marks.iter().enumerate() {
        if !".?!".contains(mark) || (mark == '.' && is_abbreviation(&text[start..at])) {
            continue;
        }
        let closing = |c: char| "\"')]}»”’".contains(c);
        let after = marks[i + 1..].iter().position(|&(_, c)| !closing(c)).map(|n| i + 1 + n);
        let Some(blank) = after.filter(|&n| marks[n].1.is_whitespace()) else { continue };
        let next = marks[blank..].iter().find(|(_, c)| !c.is_whitespace());
        let begins = |c: char| c.is_uppercase() || c.is_numeric() || "\"'“‘«`(".contains(c);
        if let Some(&(begin, _)) = next.filter(|&&(_, c)| begins(c)) {
            sentences.push(&text[start..marks[blank].0]);
            start = begin;
        }
    }
    sentences.push(&text[start..]);
    sentences
}

/// Whether the last word of a text is an initial or a usual abbreviation.
fn is_abbreviation(text: &str) -> bool {
    let word = text.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    is_initial || ABBREVIATIONS.contains(&&word.to_lowercase()[..])
}

/// H_2 and H_3 weighed, in bits; 0 of a text of fewer words than two.
pub fn entropy(text: &str) -> f64 {
    let words = words(text);
    let of = |n: usize| {
        let mut counts: BTreeMap<&[String], usize> = BTreeMap::new();
        words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
        let total = counts.values().sum::<usize>() as f64;
        let term = |&count: &usize| {
            let f = count as f64 / total;
            -f * f.log2()
        };
        counts.values().map(term).sum::<f64>()
    };
    (2.0 / 3.0 * of(2) + 4.0 / 3.0 * of(3)) / 2.0
}

/// The weights of words over a collection of snippets.
#[derive(Clone, Debug, PartialEq)]
pub struct Idf {
    weights: HashMap<String, f64>,
}

impl Idf {
    /// Of these snippets.
    pub fn new<'a>(snippets: impl IntoIterator<Item = &'a str>) -> Idf {
        let mut counts: HashMap<String, usize> = HashMap::new();
        let mut n = 0;
        for snippet in snippets {
            n += 1;
            let own: BTreeSet<String> = terms(snippet).collect();
            own.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
        }
        let weight = |df: usize| ((1.0 + f64::from(n)) / (1.0 + df as f64)).ln() + 1.0;
        Idf { weights: counts.into_iter().map(|(word, df)| (word, weight(df))).collect() }
    }

    /// The cosine of two texts; 0 where one has no word of the collection.
    pub fn cosine(&self, a: &str, b: &str) -> f64 {
        let [a, b] = [a, b].map(|text| self.vector(text));
        let dot: f64 = a.iter().map(|(word, x)| x * b.get(word).unwrap_or(&0.0)).sum();
        let norm = |v: &BTreeMap<String, f64>| v.values().map(|x| x * x).sum::<f64>().sqrt();
        let norms = norm(&a) * norm(&b);
        if norms > 0.0 { dot / norms } else { 0.0 }
    }

    fn vector(&self, text: &str) -> BTreeMap<String, f64> {
        let mut vector = BTreeMap::new();
        for word in terms(text) {
            if let Some(weight) = self.weights.get(&word) {
                *vector.entry(word).or_insert(0.0) += weight;
            }
        }
        vector
    }
}

/// Words of two letters or more, in small letters.
fn terms(text: &str) -> impl Iterator<Item = String> {
    let text = text.to_lowercase();
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| word.chars().count() > 1)
        .map(str::to_owned)
        .collect();
    words.into_iter()
}

/// What is written of things that have an item as their property, to compare with.
pub struct References {
    idf: Arc<Idf>,
    texts: BTreeMap<(String, String), Arc<str>>,
}

impl References {
    /// Of snippets, all of which make the weights of words.
    pub fn new(snippets: &Snippets) -> References {
        let all = snippets.texts.values().flatten().map(String::as_str);
        let joined = |(of, texts): (&(String, String), &Vec<String>)| {
            (of.clone(), Arc::from(texts.join(" ")))
        };
        References {
            idf: Arc::new(Idf::new(all)),
            texts: snippets.texts.iter().map(joined).collect(),
        }
    }

    /// The weights, and what is written of a property and an item, if anything is.
    pub fn of(&self, relation: &str, item: &str) -> Option<(Arc<Idf>, Arc<str>)> {
        let text = self.texts.get(&(relation.to_owned(), item.to_owned()))?;
        Some((self.idf.clone(), text.clone()))
    }
}
