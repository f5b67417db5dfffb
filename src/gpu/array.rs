//! Arrays on a device.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::engine::Engine;
use super::launch::{DeviceSlice, Elem, In, InOut, Out};
use super::turns::Block;
use crate::base::Result;

/// Elements on a device, freed with the last who holds them.
pub struct Array {
    engine: Engine,
    slice: DeviceSlice,
    capacity: usize, // elements there is room for; a part of another has none of its own
    _whole: Option<Arc<Array>>, // what it is a part of, held as long
}

impl Engine {
    /// Room for `len` elements. Where there is none, the weights least recently used make some.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn array(&self, elem: Elem, len: usize) -> Result<Array> {
        let at = self.allocate((len * elem.size()) as u64)?;
        let slice = DeviceSlice { at, len, elem };
        Ok(Array { engine: self.clone(), slice, capacity: len, _whole: None })
    }

    /// An array of the bytes of some elements.
    ///
    /// # Errors
    ///
    /// As [`array`](Engine::array).
    pub fn upload(&self, elem: Elem, bytes: &[u8]) -> Result<Array> {
        let _hold = self.hold();
        assert!(self.capturing().is_none(), "an upload cannot be recorded");
        let array = self.array(elem, bytes.len() / elem.size())?;
        if !bytes.is_empty() {
            self.write(array.slice.at, bytes);
        }
        Ok(array)
    }
}

impl Array {
    /// `len` elements in the place of some of its own, which are bytes, from the `from`-th on.
    /// Whoever lays parts over each other shares what is there.
    pub fn part(self: &Arc<Array>, from: usize, elem: Elem, len: usize) -> Array {
        assert_eq!(self.slice.elem, Elem::U8, "part: of an array of bytes");
        let at = self.slice.part(from, len * elem.size()).at;
        let slice = DeviceSlice { at, len, elem };
        Array { engine: self.engine.clone(), slice, capacity: 0, _whole: Some(self.clone()) }
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.slice.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slice.len == 0
    }

    /// Of which type they are.
    pub fn elem(&self) -> Elem {
        self.slice.elem
    }

    /// The device it is on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its elements' place in the device's memory.
    pub fn slice(&self) -> DeviceSlice {
        self.slice
    }

    /// To be read by a kernel.
    pub fn read(&self) -> In<'_> {
        self.slice.into()
    }

    /// To be written by a kernel, all of it.
    pub fn write(&mut self) -> Out<'_> {
        self.slice.into()
    }

    /// To be read and written by a kernel.
    pub fn update(&mut self) -> InOut<'_> {
        self.slice.into()
    }

    /// Makes it `len` long; what it held stays, new elements are zero.
    ///
    /// # Errors
    ///
    /// As [`Engine::array`].
    pub fn resize(&mut self, len: usize) -> Result<()> {
        let old = self.slice.len;
        if len > self.capacity {
            // What grows token by token is not copied for each; and little is held for nothing.
            let room = if old == 0 { len } else { len.max(old + old / 8) };
            let mut larger = self.engine.array(self.slice.elem, room)?;
            larger.copy(0, self, 0..old);
            larger.slice.len = old;
            *self = larger;
        }
        self.slice.len = len;
        if len > old {
            let new = self.slice.part(old, len - old);
            self.engine.zero(new.at, new.len * new.elem.size());
        }
        Ok(())
    }

    /// Elements from `to` on become a copy of some of another array of the same device and type.
    pub fn copy(&mut self, to: usize, from: &Array, elements: Range<usize>) {
        assert_eq!(self.slice.elem, from.slice.elem, "copy: arrays of two types");
        if !elements.is_empty() {
            let to = self.slice.part(to, elements.len());
            let from = from.slice.part(elements.start, elements.len());
            self.engine.copy(to.at, from.at, to.len * to.elem.size());
        }
    }

    /// The bytes, once all launches before are done.
    pub fn download(&self) -> Vec<u8> {
        self.download_part(0..self.slice.len)
    }

    /// The bytes of some elements, once all launches before are done.
    pub fn download_part(&self, elements: Range<usize>) -> Vec<u8> {
        let part = self.slice.part(elements.start, elements.len());
        let mut bytes = vec![0; part.len * part.elem.size()];
        if !bytes.is_empty() {
            self.engine.read(part.at, &mut bytes);
        }
        bytes
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.slice.fmt(f)
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        let bytes = (self.capacity * self.slice.elem.size()) as u64;
        if bytes > 0 {
            self.engine.free(Block { at: self.slice.at, bytes });
        }
    }
}
