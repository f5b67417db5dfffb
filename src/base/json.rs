//! JSON as people's files have it: keys that are named twice, of which a plain reader silently
//! keeps the last, the order of keys, which it forgets, and Python's numbers that are none.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A value in which no object has a key twice.
pub struct UniqueKeys(pub Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<UniqueKeys, D::Error> {
        from.deserialize_any(Reader).map(UniqueKeys)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_str<E>(self, x: &str) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = vec![];
        while let Some(UniqueKeys(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, UniqueKeys(value))) = fields.next_entry::<String, UniqueKeys>()? {
            if all.contains_key(&name) {
                return Err(de::Error::custom(format!("{name:?} is named twice")));
            }
            all.insert(name, value);
        }
        Ok(all.into())
    }
}

/// The keys of all objects, each before those inside its value, in the order of the text.
pub struct KeyOrder(pub Vec<String>);

impl<'de> Deserialize<'de> for KeyOrder {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<KeyOrder, D::Error> {
        from.deserialize_any(KeyReader).map(KeyOrder)
    }
}

struct KeyReader;

impl<'de> Visitor<'de> for KeyReader {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(vec![])
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(vec![])
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(vec![])
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(vec![])
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(vec![])
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(vec![])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = vec![];
        while let Some(KeyOrder(keys)) = items.next_element()? {
            all.extend(keys);
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut all = vec![];
        while let Some((name, KeyOrder(keys))) = fields.next_entry::<String, KeyOrder>()? {
            all.push(name);
            all.extend(keys);
        }
        Ok(all)
    }
}

/// JSON in which `NaN`, `Infinity` and `-Infinity` are null: Python writes them where a table has
/// no value. Lines stay where they are.
pub fn nan_as_null(json: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    if !WORDS.iter().any(|word| json.windows(word.len()).any(|part| part == *word)) {
        return json.into();
    }
    let mut out = Vec::with_capacity(json.len());
    let mut inside = false; // a string
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let word = WORDS.into_iter().find(|word| !inside && json[at..].starts_with(word));
        let (from, to) = match (byte, word) {
            (_, Some(word)) => (word.len(), &b"null"[..]),
            (b'\\', _) => (2, &json[at..json.len().min(at + 2)]),
            _ => (1, &json[at..at + 1]),
        };
        // No string holds a line break, so an open one ends here.
        inside = byte != b'\n' && inside ^ (byte == b'"');
        out.extend_from_slice(to);
        at += from;
    }
    out.into()
}
