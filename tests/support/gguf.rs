//! A writer of GGUF files, pair by pair, as llama.cpp's `gguf.md` says.

use incise::store::gguf::BlockType;

/// A file in the making.
#[derive(Clone)]
pub struct GgufWriter {
    pub version: u32,
    pub alignment: usize,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(Vec<u8>, Vec<u8>)>, // the description up to where it begins, the data
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl GgufWriter {
    pub fn new() -> GgufWriter {
        GgufWriter { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() }
    }

    /// A pair whose value has this type and these bytes.
    pub fn pair(&mut self, key: &str, id: u32, value: &[u8]) -> &mut GgufWriter {
        self.pairs.push([&text(key), &id.to_le_bytes()[..], value].concat());
        self
    }

    /// The pair of this key is not there.
    pub fn remove(&mut self, key: &str) -> &mut GgufWriter {
        self.pairs.retain(|pair| !pair.starts_with(&text(key)));
        self
    }

    /// The pair of this key has another value.
    pub fn replace(&mut self, key: &str, id: u32, value: &[u8]) -> &mut GgufWriter {
        self.remove(key).pair(key, id, value)
    }

    /// A pair that is an array of n values of this type.
    pub fn array(&mut self, key: &str, id: u32, n: usize, values: &[u8]) -> &mut GgufWriter {
        let head = [&id.to_le_bytes()[..], &(n as u64).to_le_bytes()].concat();
        self.pair(key, 9, &[&head, values].concat())
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut GgufWriter {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut GgufWriter {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut GgufWriter {
        self.pair(key, 7, &[value.into()])
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut GgufWriter {
        self.pair(key, 8, &text(value))
    }

    pub fn texts<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut GgufWriter {
        let bytes: Vec<u8> = values.iter().flat_map(|value| text(value.as_ref())).collect();
        self.array(key, 8, values.len(), &bytes)
    }

    pub fn floats(&mut self, key: &str, values: &[f32]) -> &mut GgufWriter {
        self.array(key, 6, values.len(), bytemuck::cast_slice(values))
    }

    /// A tensor, its sizes from the outer one.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: &str, data: &[u8]) -> &mut Self {
        let id = BlockType::by_name(kind).unwrap().id;
        self.tensor_of(name, &shape.iter().map(|&n| n as u64).collect::<Vec<_>>(), id, data)
    }

    /// A tensor of whatever sizes and type.
    pub fn tensor_of(&mut self, name: &str, shape: &[u64], id: u32, data: &[u8]) -> &mut Self {
        let mut head = [&text(name), &(shape.len() as u32).to_le_bytes()[..]].concat();
        shape.iter().rev().for_each(|n| head.extend(n.to_le_bytes()));
        head.extend(id.to_le_bytes());
        self.tensors.push((head, data.to_vec()));
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(|_, begin| begin)
    }

    /// The file, with other places for its tensors: from number and true place.
    pub fn bytes_with(&self, place: impl Fn(usize, u64) -> u64) -> Vec<u8> {
        let mut out = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        let mut begin = 0;
        for (i, (head, data)) in self.tensors.iter().enumerate() {
            out.extend(head);
            out.extend(place(i, begin as u64).to_le_bytes());
            begin += data.len().next_multiple_of(self.alignment);
        }
        for (_, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out
    }
}
